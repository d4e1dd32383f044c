"""A transformer block with its linear layers patched by a package: answers, times, predictions."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.block_profile import profile
from bench.block_timing import Case, Clock
from sim import load_gpu
from sim.calibration.folder import NO_CALIBRATION, choose_calibration
from sim.error.expected import expected_sqnr_db
from sim.network import Batch, NetworkCost, Phase, network_cost
from tiles.kernels import kernel, kernels
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import recipe
from workbench.network_models import read_network
from workbench.pricer import Pricer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from bench.torch_block import TransformerBlock
    from workbench.emission import EmittedPackage

__all__ = [
    "ERROR_FACTOR",
    "emitted_for",
    "expected_error",
    "imported",
    "measure_patched",
    "predict_patched",
    "profile_patched",
]

#: A block's output, which four products and what lies between them add their errors to, may be off
#: by so many times what one product of normal numbers is expected to be off.
ERROR_FACTOR = 4.0
NAME = "patched_block_kernels"
TIMED = "torch.compile(fullgraph=True, dynamic=False), replayed as a CUDA graph"
#: Families of products that compete for the entries, and those that quantise for a layer.
_FAMILIES = (
    "triton_gemm", "hopper_gemm", "triton_weight_only", "hopper_weight_only",
    "hopper_weight_prefill",
)  # fmt: skip
_QUANTIZES = ("triton_quantize", "cuda_quantize")


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
                    for family in _QUANTIZES:
                        if kernel(family).refusal(rounding, target.limits) is None:
                            studies[str(rounding), family] = rounding
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


def predict_patched(
    case: Case, gpu: str, name: str, calibration: str | Path = NO_CALIBRATION
) -> dict[str, Any]:
    """One layer's forward pass in bf16 and under a recipe, by the cost model.

    bf16 is what the fastest kernels take; under the recipe those that a patched layer launches.

    Args:
        calibration: a file of ``workbench calibrate``, or "none".
    Raises:
        ValueError: it cannot be predicted, or the calibration is of another GPU.
    """
    target = load_gpu(gpu)
    held = choose_calibration(calibration, target)
    figures = target if held.calibration is None else held.calibration.gpu
    network = read_network(case.model, case.length)
    batch = Batch(sequences=case.sequences, length=case.length)
    launched = [kernel(family) for family in (*_FAMILIES, *_QUANTIZES)]
    costs: dict[str, NetworkCost] = {}
    for side, one, families in (
        ("bf16", "bf16", list(kernels().values())),
        ("patched", name, launched),
    ):
        pricer = Pricer(target, families, held.calibration)
        cost = network_cost(network, batch, recipe(one), figures, pricer.best)
        if isinstance(cost, str):
            raise ValueError(f"{case}: {one}: {cost}")
        costs[side] = cost
    layers = network.layers
    times = {
        f"{side}_us": cost.span(Phase.FORWARD).time_us / layers for side, cost in costs.items()
    }
    operators = {
        side: [
            {
                "operator": priced.operator.name,
                "work": str(priced.operator.work),
                "kernel": priced.kernel,
                "predicted_us": priced.span.time_us,
            }
            for priced in cost.operators
        ]
        for side, cost in costs.items()
    }
    return times | {
        "speedup": times["bf16_us"] / times["patched_us"],
        "calibration": list(held.lines),
        "operators": operators,
    }


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

    block, x = _block(case, device)
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
        "error_bound": ERROR_FACTOR * expected_error(name, block.block.hidden),
        "report": report.to_dict(),
        "bf16_us": (before["measured_us"] + behind["measured_us"]) / 2,
        "patched_us": patched["measured_us"],
    }
    return found | {
        "speedup": found["bf16_us"] / found["patched_us"],
        "timed": "" if clock is None else TIMED,
        "samples_us": {
            "bf16 before": before["samples_us"],
            "patched": patched["samples_us"],
            "bf16 behind": behind["samples_us"],
        },
    }


def profile_patched(case: Case, name: str, module: ModuleType) -> dict[str, list[dict[str, Any]]]:
    """Kernels that a block launches before and after it is patched, the longest first.

    Under a profiler they take longer than without one, and so does what is launched after it: so
    this comes behind all that is timed.
    """
    import torch

    block, x = _block(case, "cuda")
    found = {}
    with torch.no_grad():
        for side in ("bf16", "patched"):
            if side == "patched":
                module.patch(block, name, keep=())
            found[side] = [asdict(one) for one in profile(_captured(block, x).replay, "cuda")]
    return found


def _block(case: Case, device: str) -> "tuple[TransformerBlock, torch.Tensor]":
    """A layer in bf16, and what goes in."""
    import torch

    from bench.torch_block import TransformerBlock

    torch.compiler.reset()
    network = read_network(case.model, case.length)
    block = TransformerBlock(network.block, case.length, dtype=torch.bfloat16, device=device).eval()
    shape = (case.sequences, case.length, network.block.hidden)
    generator = torch.Generator(device=device).manual_seed(1)
    return block, torch.randn(shape, generator=generator, dtype=torch.bfloat16, device=device)


def _captured(block: "torch.nn.Module", x: "torch.Tensor") -> "torch.cuda.CUDAGraph":
    """One compiled pass."""
    import torch

    compiled: Callable[[torch.Tensor], Any] = torch.compile(block, fullgraph=True, dynamic=False)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compiled(x)
    return graph


def _time(block: "torch.nn.Module", x: "torch.Tensor", clock: Clock | None) -> dict[str, Any]:
    if clock is None:
        return {"measured_us": math.nan, "samples_us": []}
    return clock.time(_captured(block, x).replay)
