"""Batched GEMMs on a GPU: both orders of the second operand, formats, configurations, heads."""

import pytest

from sim import Gpu, gpu_names, load_gpu
from tiles.kernels import kernel
from tiles.problems import BatchedGemm, parse_problem

pytestmark = pytest.mark.gpu

FAMILY = kernel("triton_batched_gemm")
RECIPES = ("bf16", "fp16", "e4m3-tensor", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128")


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    import torch

    name = torch.cuda.get_device_name()
    known = [one for one in map(load_gpu, gpu_names()) if one.matches(name)]
    if not known:
        pytest.skip(f"no GPU file for {name}")
    return known[0]


def batched(text: str) -> BatchedGemm:
    problem = parse_problem(f"batched_gemm:{text}")
    assert isinstance(problem, BatchedGemm)
    return problem


@pytest.mark.parametrize("second", ["nk", "kn"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_format_over_the_space(recipe: str, second: str, gpu: Gpu) -> None:
    """Attention's shapes and tails in every extent, a sample of the legal space."""
    for shape, out in (
        ("6x1024x1024x128", "bf16"),
        ("6x1024x128x1024", "bf16"),
        ("5x333x272x400", "fp32"),
        ("7x129x65x77", "fp32"),
        ("3x1x1000x64", "bf16"),
    ):
        problem = batched(f"{shape}:{recipe}:{second}:{out}")
        if reason := FAMILY.refusal(problem, gpu.limits):
            pytest.skip(reason)
        workload = FAMILY.workload(problem, device="cuda", seed=len(shape))
        space = FAMILY.legal_space(problem, gpu.limits).accepted
        step = max(1, len(space) // 8)
        sample = [space.config(row) for row in range(step // 2, len(space), step)]
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


def test_offsets_beyond_two_to_the_31(gpu: Gpu) -> None:
    import torch

    from tiles.kernels.batched_workload import BatchedWorkload

    problem = batched("132x4096x4096x64:bf16:nk:bf16")
    assert problem.batch * problem.m * problem.n > 2**31
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    assert isinstance(workload, BatchedWorkload)
    made = workload.operands
    made.c.fill_(float("nan"))
    workload.launchers(FAMILY.default(problem, gpu.limits), 1)[0]()
    torch.cuda.synchronize()
    assert not made.c.isnan().any()
    for z in (0, 131):
        exact = made.a[z].float() @ made.b[z].float().T
        assert torch.allclose(made.c[z].float(), exact, rtol=2**-7, atol=2**-6)


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
