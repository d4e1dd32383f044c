"""Which kernel and configuration serves a problem."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_stand_ins import LIMITS

from sim import load_gpu, price
from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.nn import training_runtime, tuned
from workbench.nn.choices import FAMILIES, Choice, Choices, NoKernel
from workbench.nn.cuda_products import Operand, product_problem

TUNED = "gemm:512x512x512:jetfire:int8.b32x32"


def test_a_tuned_configuration_comes_before_the_default() -> None:
    problem, family = parse_problem(TUNED), kernel("hopper_block_gemm")
    space = family.legal_space(problem, LIMITS).accepted
    best = Choice(family="hopper_block_gemm", config=space.config(len(space) - 1))
    assert best.config != family.default(problem, LIMITS)
    choices = Choices(LIMITS, {TUNED: best})
    assert choices.of(problem) == best
    other = choices.of(problem.resized(256, 512, 512))
    assert isinstance(other, Choice)
    assert other.config == family.default(problem.resized(256, 512, 512), LIMITS)


@pytest.mark.parametrize("text", ["gemm:8192x4096x4096:int8-b128:bf16", TUNED])
def test_a_product_takes_the_fastest_predicted_configuration_of_all_families(text: str) -> None:
    gpu, problem = load_gpu("h200"), parse_problem(text)
    found = Choices(LIMITS, gpu=gpu).of(problem)
    assert isinstance(found, Choice)
    served = [kernel(name) for name in FAMILIES["gemm"]]
    times = {
        family.name: price(problem, family, family.legal_space(problem, LIMITS).accepted, gpu)
        for family in served
        if family.refusal(problem, LIMITS) is None
    }
    least = min(float(table.time_us.min()) for table in times.values())
    assert times[found.family].best().config == found.config
    assert times[found.family].best().time_us == least
    default = Choices(LIMITS).of(problem)
    assert isinstance(default, Choice)
    assert default.config == kernel(default.family).default(problem, LIMITS)


def test_refuses_a_tuned_configuration_that_does_not_fit() -> None:
    legal = kernel("triton_transpose")
    config = legal.default(parse_problem("transpose:64x64:int8"), LIMITS)
    with pytest.raises(ValueError, match="triton_transpose is not launched here, hopper_gemm"):
        Choices(LIMITS, {TUNED: Choice(family="triton_transpose", config=config)})
    a100 = load_gpu("a100").limits
    found = Choices(a100).of(parse_problem(TUNED))
    assert isinstance(found, NoKernel)
    assert "hopper_block_gemm" in found.reason


def study(text: str, family: str, times: tuple[float | None, ...], simulated: bool = False) -> Any:
    """A study whose trials took so long; ``None``: an error."""
    problem = parse_problem(text)
    space = kernel(family).legal_space(problem, LIMITS).accepted
    trials = tuple(
        SimpleNamespace(config=space.config(i), measurement=SimpleNamespace(time_us=time))
        for i, time in enumerate(times)
    )
    measured = [one for one in trials if one.measurement.time_us is not None]
    best = min(measured, key=lambda one: one.measurement.time_us, default=None)
    return SimpleNamespace(problem=problem, kernel=family, best=best, simulated=simulated)


def test_the_fastest_of_a_sweep_is_taken_by_whatever_name_its_recipe_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "gemm:512x512x512:jetfire-128:bf16"
    studies = [
        study(text, "triton_gemm", (90.0,)),
        study(text, "hopper_gemm", (None, 70.0, 60.0)),
        study(text, "hopper_block_gemm", (65.0,)),
        study("gemm:512x512x512:jetfire-128:fp32", "hopper_gemm", (None,)),
        study("gemm:256x512x512:jetfire-128:bf16", "hopper_gemm", (1.0,), simulated=True),
        study("gemm:512x512x512:int8-row:bf16", "hopper_skinny_gemm", (1.0,)),
    ]
    monkeypatch.setattr(tuned, "load_study", lambda *_: SimpleNamespace(studies=studies))
    found = tuned.tuned_choices("run")
    asked = str(parse_problem("gemm:512x512x512:int8-b128:bf16"))
    assert set(found) == {asked}
    assert found[asked].family == "hopper_gemm"
    space = kernel("hopper_gemm").legal_space(parse_problem(text), LIMITS).accepted
    assert found[asked].config == space.config(2)
    choices = Choices(LIMITS, found, gpu=load_gpu("h200"))
    sides = [
        Operand(codes=torch.empty(512, 512), scales=None, format=TensorFormat.parse(fmt))
        for fmt in ("int8.b128x128+sr", "int8.b128x128")
    ]
    assert choices.of(product_problem(*sides, "bf16")) == found[asked]


def test_a_sweep_without_a_measurement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [study(TUNED, "hopper_block_gemm", (1.0,), simulated=True)]
    monkeypatch.setattr(tuned, "load_study", lambda *_: SimpleNamespace(studies=studies))
    with pytest.raises(ValueError, match="run: no study of it has a measured configuration of"):
        training_runtime("jetfire", tuned="run")
