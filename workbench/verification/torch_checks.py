"""Whether functions of a package are good PyTorch operators: registered, compiled, captured."""

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from workbench.verification.operator_case import POISON
from workbench.verification.recorder import Recorder

__all__ = ["judge_captured", "judge_compiled", "judge_registration", "judge_seeds", "seeds_of"]

#: More than torch compiles a function anew before it gives up.
_SEEDS = 10


def judge_registration(
    check: Recorder, package: ModuleType, name: str, arguments: Sequence[Any]
) -> None:
    """Whether an operator's fake implementation and schema agree with what it does."""
    space = getattr(torch.ops, package.__name__)
    overload: torch._ops.OpOverload = getattr(space, name).default
    noted = _judge_one(check, overload, arguments)
    if hasattr(space, f"{name}_out"):
        into: torch._ops.OpOverload = getattr(space, f"{name}_out").default
        outputs = _tensors(overload(*arguments))
        told = len(into._schema.arguments) - len(outputs)
        noted += f"; with outputs given {_judge_one(check, into, [*arguments[:told], *outputs])}"
    check.note(noted)


def _judge_one(check: Recorder, overload: torch._ops.OpOverload, arguments: Sequence[Any]) -> str:
    tests = ["test_faketensor"]
    # The schema test compares inputs before and after: torch cannot for 8-bit floats.
    narrow = any(t.dtype.itemsize == 1 and t.dtype.is_floating_point for t in _tensors(arguments))
    if not narrow:
        tests.append("test_schema")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(overload, tuple(arguments), test_utils=tuple(tests))
    if narrow:
        _judge_inputs(check, overload, arguments)
        tests.append("inputs bit for bit as before")
    return ", ".join(tests)


def _judge_inputs(
    check: Recorder, overload: torch._ops.OpOverload, arguments: Sequence[Any]
) -> None:
    """Whether a call writes to nothing but what its schema says."""
    told = zip(overload._schema.arguments, arguments, strict=True)
    read = [
        (argument.name, tensor, _bits(tensor).clone())
        for argument, given in told
        if argument.alias_info is None
        for tensor in _tensors(given)
    ]
    overload(*arguments)
    for name, tensor, before in read:
        check.expect(torch.equal(_bits(tensor), before), f"{overload} writes to {name}")


def judge_compiled(check: Recorder, call: Callable[[], Any]) -> None:
    """Whether a call gives the same bits under ``torch.compile(fullgraph=True)``."""
    torch.compiler.reset()  # one function for every entry: together they pass its limit
    compiled = torch.compile(call, fullgraph=True)
    check.expect(_same(compiled(), call()), "compiled and eager results differ")
    check.note("bit for bit the eager result")


def seeds_of(overload: torch._ops.OpOverload, arguments: Sequence[Any]) -> list[int]:
    """Places of the seeds among an operator's arguments; none where it draws no random bits."""
    told = zip(overload._schema.arguments, arguments, strict=True)
    return [
        i
        for i, (argument, value) in enumerate(told)
        # Without dropout a mask's seed is the default, which nothing reads.
        if (argument.name == "seed" and value is not None)
        or (argument.name == "mask_seed" and value)
    ]


def judge_seeds(
    check: Recorder,
    overload: torch._ops.OpOverload,
    arguments: Sequence[Any],
    backend: str = "inductor",
) -> None:
    """Whether one compiled operator serves every seed; stochastic rounding has a new one a step."""
    places = seeds_of(overload, arguments)

    def call(seed: int) -> Any:
        given = list(arguments)
        for place in places:
            given[place] = seed
        return overload(*given)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for seed in range(2, 2 + _SEEDS):
        check.expect(_same(compiled(seed), call(seed)), f"seed {seed}: compiled and eager differ")
    check.note(f"bit for bit the eager result under {_SEEDS} seeds")


def judge_captured(check: Recorder, call: Callable[[], Any]) -> None:
    """Whether a CUDA graph of a call gives the same bits, whatever its outputs held."""
    expected = call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = call()
    for _ in range(2):
        for tensor in _tensors(captured):
            # Scales with rows contiguous have no view as bytes.
            if tensor.element_size() == 1:
                tensor.view(torch.uint8).fill_(POISON)
            else:
                tensor.fill_(-1.25)
        graph.replay()
        torch.cuda.synchronize()
        check.expect(_same(captured, expected), "the replay's result differs from eager's")
    check.note("two replays give the eager result")


def _tensors(found: Any) -> list[torch.Tensor]:
    """The tensors of a result, or of arguments, in their order."""
    if isinstance(found, torch.Tensor):
        return [found]
    return [t for part in found for t in _tensors(part)] if isinstance(found, tuple | list) else []


def _same(one: Any, other: Any) -> bool:
    """Whether two results hold the same bits."""
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(torch.equal(_bits(a), _bits(b)) for a, b in pairs)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)
