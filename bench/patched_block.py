"""A transformer block with its linear layers patched by a package: answers, times, predictions."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.block_timing import Case, Clock
from sim import load_gpu
from sim.error.expected import expected_sqnr_db
from sim.network import Phase
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import recipe
from workbench.network_models import read_network
from workbench.networks import predict_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from workbench.emission import EmittedPackage

__all__ = [
    "ERROR_FACTOR",
    "emitted_for",
    "expected_error",
    "imported",
    "measure_patched",
    "predict_patched",
]

#: A block's output, which four products and what lies between them add their errors to, may be off
#: by so many times what one product of normal numbers is expected to be off.
ERROR_FACTOR = 4.0
NAME = "patched_block_kernels"
#: Families of products that compete for the entries.
_FAMILIES = (
    "triton_gemm", "hopper_gemm", "triton_weight_only", "hopper_weight_only",
    "hopper_weight_prefill",
)  # fmt: skip


def emitted_for(
    cases: Sequence[Case], recipes: Sequence[str], gpu: str, folder: Path, *, most: int = 8
) -> "EmittedPackage":
    """A package for the linear layers of some cases: the model's best configurations, unmeasured.

    Args:
        cases: whose products and quantisations it is for.
        recipes: to patch with.
        gpu: that it is for.
        folder: an empty one.
        most: configurations of a study.
    Raises:
        ValueError: nothing of it can be emitted.
    """
    import tuning
    from tiles.kernels import kernel
    from workbench.emission import emit

    target = load_gpu(gpu)
    studies: dict[tuple[str, str], Problem] = {}
    for case in cases:
        tokens = case.sequences * case.length
        for linear in read_network(case.model, case.length).block.linears:
            for name in recipes:
                one = recipe(name)
                product = Gemm(m=tokens, n=linear.n, k=linear.k, recipe=one, out="bf16")
                if one.activation.scaling is not None:
                    rounding = Quantize(
                        rows=tokens, cols=linear.k, target=one.activation, source="bf16"
                    )
                    studies[str(rounding), "triton_quantize"] = rounding
                for family in _FAMILIES:
                    if kernel(family).refusal(product, target.limits) is None:
                        studies[str(product), family] = product
    plan = tuning.Plan(
        studies=tuple(
            tuning.StudyPlan(problem=problem, kernel=family)
            for (_, family), problem in studies.items()
        ),
        gpu=target,
        folder=folder / "sweep",
        strategy=tuning.Strategy.MODEL,
        simulate=True,
        max_measurements=most,
    )
    return emit(tuning.run(plan), folder / "kernels", name=NAME)


@contextmanager
def imported(project: Path) -> "Iterator[ModuleType]":
    """The module of an emitted project; of one name once in a process.

    Raises:
        ValueError: no emitted project, or one without ``patch``.
    """
    homes = [path.parent for path in (project / "src").glob("*/EVIDENCE.json")]
    if len(homes) != 1:
        raise ValueError(f"{project}: no emitted package: give the folder that emit has written")
    sys.path.insert(0, str(project / "src"))
    try:
        module = importlib.import_module(homes[0].name)
        if "patch" not in module.__all__:
            raise ValueError(f"{project}: the package has no patch: its README.md says why")
        yield module
    finally:
        sys.path.remove(str(project / "src"))


def expected_error(name: str, extent: int) -> float:
    """Relative RMS error of a product of normal numbers whose operands a recipe rounds.

    Raises:
        ValueError: the error model has no such format.
    """
    one, noise = recipe(name), 0.0
    for fmt in (one.activation, one.weight):
        if fmt.scaling is None:
            continue
        found = expected_sqnr_db(fmt, "normal", extent, extent)
        if found is None:
            raise ValueError(f"recipe {name}: nothing is known of the error of {fmt}")
        noise += 10 ** (-found / 10)
    return math.sqrt(noise)


def predict_patched(case: Case, gpu: str, name: str) -> dict[str, Any]:
    """One layer's forward pass in bf16 and under a recipe, by the cost model.

    Raises:
        ValueError: it cannot be predicted.
    """
    report = predict_network(
        gpu=gpu,
        model=case.model,
        batch=case.sequences,
        sequence=case.length,
        recipes=["bf16", name],
    )
    if len(report.rows) < 2:
        raise ValueError(f"{case}: {report.refused[0].recipe}: {report.refused[0].reason}")
    plain, coded = (row.cost.span(Phase.FORWARD).time_us / report.layers for row in report.rows)
    return {"bf16_us": plain, "patched_us": coded, "speedup": plain / coded}


def measure_patched(
    case: Case, name: str, module: ModuleType, device: str, clock: Clock | None
) -> dict[str, Any]:
    """Error and times of a block before and after it is patched; the block is torch's bf16.

    Both are compiled with ``fullgraph=True`` and replayed as a CUDA graph, each timed after half a
    second of itself, bf16 before and behind.

    Args:
        clock: None compiles nothing and makes each call once.
    """
    import torch

    from bench.torch_block import TransformerBlock

    torch.compiler.reset()
    network = read_network(case.model, case.length)
    block = TransformerBlock(network.block, case.length, dtype=torch.bfloat16, device=device).eval()
    shape = (case.sequences, case.length, network.block.hidden)
    generator = torch.Generator(device=device).manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device=device)
    with torch.no_grad():
        plain = block(x)
        before = _time(block, x, clock)
        report = module.patch(block, name, keep=())
        coded = block(x)
        patched = _time(block, x, clock)
        module.unpatch(block)
        assert torch.equal(block(x), plain), "unpatch did not bring the block back"
        behind = _time(block, x, clock)
    update = (plain.double() - x.double()).norm()
    found: dict[str, Any] = {
        "error": float((coded.double() - plain.double()).norm() / update),
        "error_bound": ERROR_FACTOR * expected_error(name, network.block.hidden),
        "report": report.to_dict(),
        "bf16_us": (before + behind) / 2,
        "patched_us": patched,
    }
    return found | {"speedup": found["bf16_us"] / patched}


def _time(block: "torch.nn.Module", x: "torch.Tensor", clock: Clock | None) -> float:
    import torch

    if clock is None:
        return math.nan
    compiled: Callable[[torch.Tensor], Any] = torch.compile(block, fullgraph=True, dynamic=False)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compiled(x)
    return float(clock.time(graph.replay)["measured_us"])
