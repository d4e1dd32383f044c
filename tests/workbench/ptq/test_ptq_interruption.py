"""What is switched on while a quantised model runs goes with it: interrupts, errors, threads."""

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import pytest
import torch
from ptq_cases import Encoder, normal, tokens
from torch import nn

from workbench.ptq import EXTENDED, Quantized, quantize

X = normal(2, 6, 8)


class Stop(nn.Module):
    """Runs until it was called so often; then it is as if Ctrl-C had been pressed."""

    def __init__(self, calls: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.inner = Nested(calls, error)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + x


class Nested(nn.Module):
    def __init__(self, calls: int, error: type[BaseException]) -> None:
        super().__init__()
        self.linear, self.left, self.error = nn.Linear(8, 8), calls, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if not self.left:
            raise self.error
        return self.linear(x) @ x.transpose(-1, -2) @ x


def modes() -> int:
    """Function modes of torch that are on in this thread."""
    return int(torch._C._len_torch_function_stack())


@pytest.fixture(autouse=True)
def no_mode_before() -> None:
    while modes():  # of a test that failed
        torch._C._pop_torch_function_stack()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("calls", [1, 3, 5, 6], ids=["score", "observe", "measure", "search"])
def test_nothing_stays_on_after_an_interrupt(calls: int, error: type[BaseException]) -> None:
    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model(X).abs().mean())

    with pytest.raises(error):
        quantize(Stop(calls, error), "int8-tensor", calibration=[X] * 2, scheme=EXTENDED,
                 score=score, criterion=0.0)  # fmt: skip
    assert modes() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_of_a_quantised_model_leaves_it_usable(error: type[BaseException]) -> None:
    made = quantize(Stop(0), "int8-tensor", calibration=[X], scheme=EXTENDED)
    expected = made.model(X)
    inner = made.model.inner
    inner.left, inner.error = 1, error
    with pytest.raises(error):
        made.model(X)
    assert modes() == 0
    assert torch.equal(made.model(X), expected)
    assert not made.unmet


def test_nothing_is_left_on_modules_that_torch_calls_for_every_model() -> None:
    made = quantize(Encoder(), "int8-tensor", calibration=[tokens(3, 5)])
    hooks = torch.nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Call ``work`` in threads that begin together; the first thing that one raises is raised."""
    raised: list[BaseException] = []
    gate = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            gate.wait(60)
            work(index)
            assert modes() == 0
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


class Meeting(nn.Module):
    """Two threads meet in the middle of every call, so that each runs inside the other's."""

    meet: ClassVar[list[threading.Barrier]] = []

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x) @ x.transpose(-1, -2)
        for gate in self.meet:
            gate.wait(60)
        return self.second(y @ x) + x


def quantized(model: nn.Module, x: torch.Tensor = X) -> Quantized:
    return quantize(model, "int8-tensor", calibration=[x], scheme=EXTENDED)


def test_threads_that_run_one_quantised_model_do_not_meet_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = quantized(Meeting())
    inputs = [X, 2 * X]
    with torch.no_grad():
        expected = [made.model(x) for x in inputs]
    monkeypatch.setattr(Meeting, "meet", [threading.Barrier(2)])

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(5):
                assert torch.equal(made.model(inputs[index]), expected[index])

    in_threads(2, work)
    assert not made.unmet


def test_threads_that_quantise_do_not_meet_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [quantized(Meeting(seed), X * (seed + 1)) for seed in (0, 1)]
    expected = [one.model(X) for one in alone]
    models = [Meeting(seed) for seed in (0, 1)]
    monkeypatch.setattr(Meeting, "meet", [threading.Barrier(2)])

    def work(seed: int) -> None:
        made = quantized(models[seed], X * (seed + 1))
        assert made.operators == alone[seed].operators
        assert torch.equal(made.model(X), expected[seed])

    in_threads(2, work)


def test_a_quantised_model_is_copied_and_pickled_with_what_it_follows() -> None:
    made = quantized(Meeting())
    expected = made.model(X)
    copied = copy.deepcopy(made.model)
    with torch.no_grad():
        made.model.second.bias.add_(100.0)
    assert torch.equal(copied(X), expected)
    read = pickle.loads(pickle.dumps(copied))
    assert torch.equal(read(X), expected)
    assert not torch.equal(read(X), Meeting()(X))


def test_a_quantised_model_has_the_signature_of_its_class() -> None:
    made = quantize(Encoder(), "int8-tensor", calibration=[tokens(3, 5)])
    assert inspect.signature(made.model.forward) == inspect.signature(Encoder().forward)


def test_a_forward_that_stands_on_the_module_itself_is_called() -> None:
    """As libraries put it that move layers between devices."""
    model = nn.Sequential(nn.Linear(8, 8))
    plain = quantize(model, "int8-tensor", calibration=[X]).model(X)
    model.forward = partial(twice, model)  # type: ignore[method-assign]
    assert torch.equal(quantize(model, "int8-tensor", calibration=[X]).model(X), 2 * plain)


def twice(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    return 2 * model[0](x)


def test_a_quantised_layer_can_be_asked_for_any_attribute() -> None:
    """As tracing does, which asks for all of them."""
    model = quantize(nn.Sequential(nn.Linear(8, 8)), "int8-tensor", calibration=[X]).model
    assert not hasattr(model[0], "original")
    names = [name for name in dir(model[0]) if hasattr(model[0], name)]
    assert {"weight", "values", "codes"} <= set(names)
