"""Batched GEMMs on a GPU: both orders of the second operand, formats, configurations, heads."""

from collections.abc import Callable

import pytest
from covering import covering

from sim import Gpu
from tiles.kernels import kernel
from tiles.problems import BatchedGemm, parse_problem

pytestmark = pytest.mark.gpu

FAMILY = kernel("triton_batched_gemm")
SHAPES = (
    ("6x1024x1024x128", "bf16"),
    ("6x1024x128x1024", "bf16"),
    ("5x333x272x400", "fp32"),
    ("7x129x65x77", "fp32"),
    ("3x1x1000x64", "bf16"),
)
RECIPES = ("bf16", "fp16", "e4m3-tensor", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128")


def batched(text: str) -> BatchedGemm:
    problem = parse_problem(f"batched_gemm:{text}")
    assert isinstance(problem, BatchedGemm)
    return problem


@pytest.mark.parametrize("second", ["nk", "kn"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_format_over_the_space(recipe: str, second: str, gpu: Gpu) -> None:
    """Attention's shapes and tails in every extent: defaults, and 7 that cover the most pairs.

    At most 12 configurations compile for each of the 14 cases.
    """
    problems = [batched(f"{shape}:{recipe}:{second}:{out}") for shape, out in SHAPES]
    if reason := FAMILY.refusal(problems[0], gpu.limits):
        pytest.skip(reason)
    spaces = [FAMILY.legal_space(problem, gpu.limits).accepted for problem in problems]
    for problem, sample in zip(problems, covering(spaces, 7), strict=True):
        workload = FAMILY.workload(problem, device="cuda", seed=problem.m)
        for config in (FAMILY.default(problem, gpu.limits), *sample):
            verdict = workload.check(config)
            assert verdict.ok, f"{problem} {config}: {verdict.reason}"


@pytest.mark.parametrize("second", ["nk", "kn"])
def test_heads_may_lie_between_tokens(second: str, gpu: Gpu) -> None:
    import torch

    from tiles.kernels.batched_workload import BatchedWorkload
    from tiles.kernels.triton import gemm_batched

    heads = 4
    problem = batched(f"12x256x128x256:e4m3-row:{second}:bf16")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    assert isinstance(workload, BatchedWorkload)
    made = workload.operands

    def between(tensor: torch.Tensor) -> torch.Tensor:
        four = tensor.view(-1, heads, *tensor.shape[1:])
        return four.transpose(1, 2).contiguous().transpose(1, 2)

    c = between(torch.full_like(made.c, float("nan")))
    config = FAMILY.config_type.from_dict(
        FAMILY.default(problem, gpu.limits).to_dict() | {"tma": False}
    )
    arguments = workload._arguments(made, config)
    moved = {name: between(arguments[name]) for name in ("a", "b", "a_scale", "b_scale")}
    gemm_batched.launch(**arguments | moved | {"c": c})
    verdict = workload.verdict(c.reshape(made.c.shape))
    assert verdict.ok, verdict.reason


def test_offsets_beyond_two_to_the_31(gpu: Gpu, huge: Callable[[float], None]) -> None:
    import torch

    from tiles.kernels.accuracy import compare
    from tiles.kernels.batched_workload import BatchedWorkload

    huge(12)
    problem = batched("132x4096x4096x64:bf16:nk:bf16")
    assert problem.batch * problem.m * problem.n > 2**31
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    assert isinstance(workload, BatchedWorkload)
    made = workload.operands
    made.c.fill_(float("nan"))
    workload.launchers(FAMILY.default(problem, gpu.limits), 1)[0]()
    torch.cuda.synchronize()
    # The first matrix, that in which 2^31 elements are passed, and the last; nothing left out.
    for z in (0, 2**31 // (problem.m * problem.n), problem.batch - 1):
        verdict = compare(made.c[z], workload.reference(z))
        assert verdict.ok, f"matrix {z}: {verdict.reason}"
    assert all(not matrix.isnan().any() for matrix in made.c)


@pytest.mark.parametrize("second", ["nk", "kn"])
def test_a_graph_replays_the_launch(second: str, gpu: Gpu) -> None:
    import torch

    from tiles.kernels.batched_workload import BatchedWorkload

    problem = batched(f"16x512x512x256:e4m3-tensor:{second}:bf16")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    assert isinstance(workload, BatchedWorkload)
    run = workload.launchers(FAMILY.default(problem, gpu.limits), 1)[0]
    run()
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        run()
    workload.operands.c.fill_(float("nan"))
    torch.cuda.synchronize()
    graph.replay()
    torch.cuda.synchronize()
    verdict = workload.verdict(workload.operands.c)
    assert verdict.ok, verdict.reason
