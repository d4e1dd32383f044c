"""Grouped GEMMs on a GPU: layouts, formats, configurations, counts that change under a graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from covering import covering

from sim import Gpu
from tiles.kernels import Kernel, kernel
from tiles.problems import GroupedGemm, parse_problem

if TYPE_CHECKING:
    from tiles.kernels.grouped_workload import GroupedWorkload

pytestmark = pytest.mark.gpu

FAMILIES = ("triton_grouped_gemm", "hopper_grouped_gemm")
LAYOUTS = ("contiguous", "padded.128", "masked.700", "gathered.8")
RECIPES = ("bf16", "e4m3-tensor", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b1x128")


def grouped(text: str) -> GroupedGemm:
    problem = parse_problem(f"grouped_gemm:{text}")
    assert isinstance(problem, GroupedGemm)
    return problem


def opened(problem: GroupedGemm, family: Kernel, seed: int) -> "GroupedWorkload":
    from tiles.kernels.grouped_workload import GroupedWorkload

    workload = family.workload(problem, device="cuda", seed=seed)
    assert isinstance(workload, GroupedWorkload)
    return workload


def served(name: str, problem: GroupedGemm, gpu: Gpu) -> Kernel:
    family = kernel(name)
    if reason := family.refusal(problem, gpu.limits):
        pytest.skip(reason)
    return family


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family_name", FAMILIES)
def test_every_format_and_layout_over_the_space(
    family_name: str, layout: str, recipe: str, gpu: Gpu
) -> None:
    """Shapes with tails in every extent: defaults, and 6 that cover the most pairs.

    At most 8 configurations compile for each of the 24 cases of a family.
    """
    problems = [
        grouped(f"{shape}:{recipe}:{layout}:{out}")
        for shape, out in (("13x4000x1048x1168", "bf16"), ("40x1000x328x656", "fp32"))
    ]
    family = served(family_name, problems[0], gpu)
    spaces = [family.legal_space(problem, gpu.limits).accepted for problem in problems]
    for problem, sample in zip(problems, covering(spaces, 6), strict=True):
        workload = family.workload(problem, device="cuda", seed=problem.m)
        for config in (family.default(problem, gpu.limits), *sample):
            verdict = workload.check(config)
            assert verdict.ok, f"{problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ("256x8192x4096x7168", "contiguous"),
        ("256x8192x7168x2048", "masked.128"),
        ("256x8192x4096x7168", "gathered.8"),
        ("8x16384x4096x7168", "padded.128"),
        ("256x64x7168x2048", "contiguous"),
    ],
)
def test_the_shapes_of_a_large_mixture(
    family_name: str, shape: str, layout: str, gpu: Gpu, huge: Callable[[float], None]
) -> None:
    problem = grouped(f"{shape}:deepseek-fp8:{layout}:bf16")
    family = served(family_name, problem, gpu)
    huge(16)  # the weights of 256 experts are 7 GiB
    verdict = family.workload(problem, device="cuda", seed=3).check(
        family.default(problem, gpu.limits)
    )
    assert verdict.ok, verdict.reason


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("layout", ["contiguous", "padded.128", "masked.2048"])
def test_experts_without_rows_and_one_with_all(family_name: str, layout: str, gpu: Gpu) -> None:
    import torch

    from tiles.kernels.group_routing import Routing

    problem = grouped(f"9x2000x520x1040:deepseek-fp8:{layout}:bf16")
    family = served(family_name, problem, gpu)
    for counts in ([0, 0, 0, 0, 2000, 0, 0, 0, 0], [1, 0, 999, 0, 0, 63, 64, 65, 808]):
        rows = torch.tensor(counts)
        size = problem.layout.size
        padded = -(-rows // size) * size
        first = torch.cumsum(padded, 0) - padded
        if layout.startswith("masked"):
            first = torch.arange(9) * size
        routed = type(opened(problem, family, 5))(
            problem,
            device="cuda",
            seed=5,
            routing=Routing(counts=rows, first=first, ids=None, top_k=1),
        )
        verdict = routed.check(family.default(problem, gpu.limits))
        assert verdict.ok, verdict.reason


@pytest.mark.parametrize("family_name", FAMILIES)
@pytest.mark.parametrize("layout", ["contiguous", "gathered.4"])
def test_a_graph_replays_with_other_counts(family_name: str, layout: str, gpu: Gpu) -> None:
    import torch

    from tiles.kernels.group_routing import draw_routing

    problem = grouped(f"16x4096x1024x2048:deepseek-fp8:{layout}:bf16")
    family = served(family_name, problem, gpu)
    workload = opened(problem, family, 0)
    run = workload.launchers(family.default(problem, gpu.limits), 1)[0]
    run()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        run()
    for seed in (0, 7, 8):
        routing = draw_routing(problem, seed)
        workload.route(workload.operands, routing)
        workload.operands.c.fill_(float("nan"))
        torch.cuda.synchronize()
        graph.replay()
        torch.cuda.synchronize()
        verdict = workload.verdict(workload.operands.c, routing)
        assert verdict.ok, f"routing {seed}: {verdict.reason}"


@pytest.mark.parametrize("family_name", FAMILIES)
def test_counts_beyond_memory_are_clamped(family_name: str, gpu: Gpu) -> None:
    import torch

    problem = grouped("8x1000x512x1024:deepseek-fp8:masked.256:bf16")
    family = served(family_name, problem, gpu)
    workload = opened(problem, family, 1)
    made = workload.operands
    made.counts.copy_(torch.tensor([-5, 10**6, 256, 0, 300, 1, 2, -(2**31)], dtype=torch.int32))
    around = torch.full((made.c.numel() + 2**20,), 7.0, dtype=made.c.dtype, device="cuda")
    inner = around[2**19 : -(2**19)].view(made.c.shape)
    inner.fill_(float("inf"))
    workload._launcher(replace(made, c=inner), family.default(problem, gpu.limits))()
    assert (around[: 2**19] == 7).all()
    assert (around[-(2**19) :] == 7).all()
    written = [0, 256, 256, 0, 256, 1, 2, 0]
    for expert, rows in enumerate(written):
        assert (inner[expert, rows:] == float("inf")).all(), expert
        assert not (inner[expert, :rows] == float("inf")).any(), expert


def test_ids_beyond_memory_are_passed_over(gpu: Gpu) -> None:
    """Of the Triton family: the other one gathers nothing."""
    import torch

    problem = grouped("8x1000x512x1024:deepseek-fp8:gathered.2:bf16")
    family = served("triton_grouped_gemm", problem, gpu)
    workload = opened(problem, family, 1)
    made = workload.operands
    run = workload._launcher(made, family.default(problem, gpu.limits))
    made.c.fill_(float("nan"))
    run()
    assert made.ids is not None
    kept, lies = made.c.clone(), {0: -1, 5: -(2**31), 700: len(made.c), 999: 2**31 - 1}
    for entry, wrong in lies.items():
        kept[int(made.ids[entry])] = float("nan")
        made.ids[entry] = wrong
    made.c.fill_(float("nan"))
    run()
    assert torch.equal(made.c.view(torch.int16), kept.view(torch.int16))


@pytest.mark.parametrize("family_name", FAMILIES)
def test_a_nan_scale_poisons_its_row_and_nothing_else(family_name: str, gpu: Gpu) -> None:
    problem = grouped("8x1000x512x1024:deepseek-fp8:contiguous:bf16")
    family = served(family_name, problem, gpu)
    workload = opened(problem, family, 1)
    made = workload.operands
    assert made.a_scale is not None
    made.a_scale[77, 3] = float("nan")
    made.c.fill_(1.0)
    workload._launcher(made, family.default(problem, gpu.limits))()
    bad = made.c.isnan()
    assert bad[77].all()
    assert int(bad.sum()) == 512


@pytest.mark.parametrize("family_name", FAMILIES)
def test_two_launches_give_the_same_bits(family_name: str, gpu: Gpu) -> None:
    import torch

    problem = grouped("32x4096x1024x2048:deepseek-fp8:contiguous:fp32")
    family = served(family_name, problem, gpu)
    workload = opened(problem, family, 1)
    run = workload.launchers(family.default(problem, gpu.limits), 1)[0]
    run()
    first = workload.operands.c.clone()
    for _ in range(3):
        run()
        assert torch.equal(workload.operands.c, first)
