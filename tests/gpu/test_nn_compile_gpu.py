"""Converted and quantised models under ``torch.compile`` on a GPU, against the same models without.

Between the layers stand sums and ReLU, which Inductor's kernels compute as torch's do.  Where two
runs without the compiler agree to the bit, a compiled one has to.
"""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import workbench
from workbench.nn import convert
from workbench.nn.cuda_backend import CudaBackend
from workbench.nn.runtime import Runtime

pytestmark = [
    pytest.mark.gpu,
    # Torch's compiler asks every tensor that it meets between two graphs for its gradient.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    # It would have matrices of fp32 multiplied in TF32, and advises so.
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores"),
]

IN_GRAPH = (
    "int8-row",
    "int8-tensor",
    "e4m3-tensor",
    "deepseek-fp8",
    "mxfp8-e4m3",
    "mxint8",
    "bf16",
)
OUTSIDE = ("jetfire-128", "fp8-lm", "int8-fallback")
STEPS = 4

_Call = Callable[[torch.Tensor], torch.Tensor]


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(256, 256), nn.Linear(256, 256, bias=False)
        self.act, self.out = nn.ReLU(), nn.Linear(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.act(self.q(x) + self.k(x)))


def made(recipe: str, kernels: CudaBackend) -> tuple[nn.Module, Runtime]:
    torch.manual_seed(0)
    done = convert(nn.Sequential(Part(), Part()).cuda(), recipe, backend=kernels, seed=5)
    return done.model, done.runtime


def trained(model: nn.Module, call: _Call) -> tuple[list[torch.Tensor], list[int]]:
    """Numbers of some steps, and graphs that were compiled by then."""
    from torch._dynamo.utils import counters

    found, compiled = [], []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 64, 256, generator=generator).cuda().requires_grad_()
        y = call(x)
        y.pow(2).mean().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert x.grad is not None
        found += [one.detach().clone() for one in (y, x.grad, *grads)]
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.sub_(1e-3 * p.grad)
                p.grad = None
        compiled.append(counters["stats"]["unique_graphs"])
    return found, compiled


def compare(recipe: str, kernels: CudaBackend, **options: object) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    runs, counts = [], []
    for compiled in (False, False, True):
        model, run = made(recipe, kernels)
        call = torch.compile(model, **options) if compiled else model  # type: ignore[call-overload]
        found, graphs = trained(model, call)
        runs.append(found)
        counts.append(run.seeds.count)
    assert counts[2] == counts[0]
    assert len(set(graphs)) == 1, "something was compiled after the first step"
    for place, (one, again, other) in enumerate(zip(*runs, strict=True)):
        if torch.equal(one, again):
            assert torch.equal(other, one), f"tensor {place}"
        else:
            assert float((other - one).norm() / one.norm()) < 1e-2, f"tensor {place}"


@pytest.mark.parametrize("recipe", IN_GRAPH)
def test_a_model_is_one_graph(recipe: str, kernels: CudaBackend) -> None:
    compare(recipe, kernels, fullgraph=True)


@pytest.mark.parametrize("recipe", OUTSIDE)
def test_other_recipes_stay_outside(recipe: str, kernels: CudaBackend) -> None:
    compare(recipe, kernels)


# Between two layers there may be nothing but views: torch captures that, too, and says so.
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
@pytest.mark.parametrize("recipe", ["int8-row", "deepseek-fp8", "jetfire-128"])
def test_graphs_of_cuda_leave_layers_out(recipe: str, kernels: CudaBackend) -> None:
    """A captured launch would round every step by the same bits: keys go on as they do in eager."""
    compare(recipe, kernels, mode="reduce-overhead")


@pytest.mark.parametrize("compiled", [False, True])
def test_a_stream_of_the_callers(compiled: bool, kernels: CudaBackend) -> None:
    """Launches of a graph's operators go to the stream that is current when the graph runs."""
    found = []
    for stream in (None, torch.cuda.Stream()):
        model, _ = made("int8-row", kernels)
        call = torch.compile(model, fullgraph=True) if compiled else model
        torch.cuda.synchronize()
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            if stream is not None:
                torch.cuda._sleep(20_000_000)  # what ran on another stream would run before it
            numbers, _ = trained(model, call)
        torch.cuda.synchronize()
        found.append(numbers)
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-2


@pytest.mark.parametrize("recipe", ["int8-row", "fp8-ptq-e4m3", "w4a16-g128", "mxfp4"])
def test_a_quantized_model_runs_as_it_does_without(recipe: str) -> None:
    pytest.importorskip("cupy")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 256)).cuda().bfloat16()
    batches = [torch.randn(32, 256, device="cuda").bfloat16() for _ in range(3)]
    done = workbench.quantize(model.eval(), recipe, calibration=batches)
    compiled = torch.compile(done.model)
    with torch.no_grad():
        for batch in batches:
            assert torch.equal(compiled(batch), done.model(batch))
