"""Models that tests compile, steps of them, and what was compiled by then.

Inductor's own kernels of what lies between the layers may round otherwise than torch does, so the
models here have sums and ReLU there, which have one result.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from nn_cases import PlainSgd, normal
from torch import nn
from torch.utils.checkpoint import checkpoint

from tiles.formats import TensorFormat
from workbench.nn import (
    RECIPES,
    Codes,
    ReferenceBackend,
    convert,
)
from workbench.nn.runtime import Runtime

#: Layers are operators of a graph under these; under others the graph ends before them.
IN_GRAPH = [
    name
    for name in RECIPES
    if name not in ("e4m3-tensor-delayed", "fp8-lm", "unit-scaling", "int8-fallback")
    and not name.startswith("jetfire")
]
OUTSIDE = [name for name in RECIPES if name not in IN_GRAPH]
#: One of a format with scales of rows, of blocks and of the whole tensor.
FEW = ("int8-row", "mxfp8-e4m3", "deepseek-fp8", "int8-tensor")


class Part(nn.Module):
    """Layers side by side that read one tensor, and a sum behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(64, 64), nn.Linear(64, 64, bias=False)
        self.act, self.out = nn.ReLU(), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.act(self.q(x) + self.k(x)))


class Model(nn.Module):
    def __init__(self, parts: int = 2, *, again: bool = False) -> None:
        super().__init__()
        self.parts, self.again = nn.ModuleList(Part() for _ in range(parts)), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=False) if self.again else part(x)
        return x


def made(recipe: str, *, backend: ReferenceBackend | None = None, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return convert(Model(**options), recipe, backend=backend, seed=5).model


def runtime_of(model: nn.Module) -> Runtime:
    return next(m.runtime for m in model.modules() if hasattr(m, "runtime"))


class Training:
    """Steps, the numbers of each, and what was compiled by then."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.optimizer = model, PlainSgd(model, 1e-3)
        self.found: list[torch.Tensor] = []
        self.compiled: list[tuple[int, int]] = []

    def run(self, call: Callable[[torch.Tensor], torch.Tensor], steps: int = 5) -> "Training":
        for step in range(steps):
            x = normal(2, 32, 64, seed=step).requires_grad_()
            y = call(x)
            y.float().pow(2).mean().backward()
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            assert x.grad is not None
            self.found += [one.detach().clone() for one in (y, x.grad, *grads)]
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.compiled.append(compilations())
        return self


def compilations() -> tuple[int, int]:
    """Frames that the compiler took up, and graphs that it made."""
    from torch._dynamo.utils import counters

    return counters["frames"]["total"], counters["stats"]["unique_graphs"]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert other.isfinite().all()
        assert one.dtype is other.dtype
        assert torch.equal(one, other), f"tensor {place}"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Nothing compiled, nothing counted; the limit of compilations of a function is an error."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def compare(recipe: str, backend: str, *, fullgraph: bool, **options: Any) -> Training:
    wanted = made(recipe, **options)
    eager = Training(wanted).run(wanted)
    model = made(recipe, **options)
    found = Training(model).run(torch.compile(model, backend=backend, fullgraph=fullgraph))
    assert_same(found.found, eager.found)
    assert runtime_of(model).seeds.count == runtime_of(wanted).seeds.count
    assert len(set(found.compiled)) == 1, "something was compiled after the first step"
    return found


def plain(operator: Any) -> Callable[..., Any]:
    """What an operator calls: a call of the operator itself loads the compiler, for seconds."""
    function: Callable[..., Any] = operator._init_fn
    return function


class Counting(ReferenceBackend):
    """Counts the matrices that are quantised, by their shape."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        self.seen.append(tuple(x.shape))
        return super().quantize(x, out, seed=seed, share=share)
