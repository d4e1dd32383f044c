"""The Hopper GEMM for few rows or tiles on a GPU: elements, scales, outputs, tails, every split."""

from collections.abc import Iterator

import numpy as np
import pytest

from sim import load_gpu
from tiles.kernels.hopper_skinny import HopperSkinnyConfig, HopperSkinnyGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("hopper")]

FAMILY, LIMITS = HopperSkinnyGemm(), load_gpu("h200").limits
#: One row, tails of every extent, K shorter than a cluster's steps, several tiles along M.
SHAPES = (
    (1, 128, 256),
    (1, 4096, 4096),
    (5, 264, 80),
    (16, 8192, 1024),
    (33, 520, 1296),
    (64, 1536, 1536),
    (128, 2112, 7168),
    (200, 264, 336),
    (300, 1032, 2064),
    (1000, 2056, 1040),
)
RECIPES = (
    "bf16",
    "fp16",
    "unit-scaling",
    "e4m3-tensor",
    "e4m3-row",
    "e5m2-tensor",
    "e5m2-row",
    "deepseek-fp8",
    "e5m2-b128",
    "int8-tensor",
    "int8-row",
    "int8-b128",
    "mxfp8-e4m3",
    "mxfp8-e5m2",
)
#: Rules about what the kernel cannot do; the others are about what is not worth trying.
HARD_RULES = ("tile shape", "counts", "promotion", "registers", "shared memory")


def config(**fields: int | bool) -> HopperSkinnyConfig:
    base = {"block_m": 16, "block_n": 64, "stages": 4, "cluster": 1, "interleaved": False}
    return HopperSkinnyConfig.from_dict(base | fields)


CONFIGS = {
    "narrow": config(block_m=8),
    "narrow, split by 8": config(block_m=8, cluster=8, stages=2),
    "16": config(),
    "16, split by 4": config(cluster=4, stages=5),
    "16, interleaved": config(cluster=4, interleaved=True),
    "32, two warpgroups": config(block_m=32, block_n=128, cluster=2),
    "48": config(block_m=48, stages=3),
    "64, four warpgroups": config(block_m=64, block_n=256, stages=2),
    "64, three, split": config(block_m=64, block_n=192, cluster=2, interleaved=True),
    "96": config(block_m=96, block_n=128, cluster=2),
    "128": config(block_m=128, block_n=128, stages=3),
    "128, split by 8": config(block_m=128, stages=2, cluster=8),
    "176": config(block_m=176, block_n=192),
    "192": config(block_m=192, block_n=128, cluster=2),
    "256": config(block_m=256, block_n=128, stages=3),
    "deep": config(block_m=8, stages=24),
}


def runnable(problem: Gemm, apart: int = 1) -> Iterator[tuple[str, HopperSkinnyConfig]]:
    """Every ``apart``-th of the configurations, as far as the kernel has them for the problem."""
    for text, one in list(CONFIGS.items())[::apart]:
        if getattr(FAMILY.judge(problem, one, LIMITS), "rule", "") not in HARD_RULES:
            yield text, one


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("out", ["bf16", "fp16", "fp32"])
def test_every_configuration_stays_within_the_bound(name: str, out: str) -> None:
    """To bf16 all of them; to other outputs, which the epilogue alone looks at, every fourth."""
    apart = 1 if out == "bf16" else 4
    tried = 0
    for m, n, k in SHAPES:
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)
        assert FAMILY.refusal(problem, LIMITS) is None
        workload = FAMILY.workload(problem, device="cuda", seed=m)
        for text, one in runnable(problem, apart):
            accuracy = workload.check(one)  # poisons the output first
            assert accuracy.ok, (problem, text, accuracy)
            tried += 1
    assert tried >= (8 if apart == 1 else 2) * len(SHAPES)


@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "deepseek-fp8", "int8-b128", "mxfp8-e4m3"])
def test_configurations_of_the_space_at_decode_shapes(name: str) -> None:
    for m, n, k in ((1, 4096, 4096), (16, 8192, 8192), (64, 24576, 1536), (256, 4096, 4096)):
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name))
        workload = FAMILY.workload(problem, device="cuda", seed=n)
        legal = FAMILY.legal_space(problem, LIMITS).accepted
        chosen = np.random.default_rng(m).choice(len(legal), min(4, len(legal)), replace=False)
        for one in (FAMILY.default(problem, LIMITS), *map(legal.config, chosen.tolist())):
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, one, accuracy)


def test_large_extents_and_many_tiles() -> None:
    """Offsets of C beyond 2^31 bytes."""
    problem = Gemm(m=4096, n=300_000, k=64, recipe=recipe("e4m3-row"))
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    import torch

    operands = workload.operands  # type: ignore[attr-defined]
    operands.c.fill_(float("nan"))
    workload.launchers(config(block_m=256, block_n=128, stages=2), 1)[0]()
    for row in (0, 4095):
        a = operands.a[row].double() * operands.a_scale[row].double()
        wanted = operands.b.double() @ a * operands.b_scale[:, 0].double()
        error = (operands.c[row].double() - wanted).norm() / wanted.norm()
        assert error < 0.01
    assert not torch.isnan(operands.c[:, -1]).any()


@pytest.mark.parametrize("cluster", [1, 8])
def test_nothing_is_written_around_c(cluster: int) -> None:
    import torch

    from tiles.kernels.gemm_workload import Operands

    problem = Gemm(m=70, n=264, k=1040, recipe=recipe("deepseek-fp8"))
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    plain: Operands = workload.operands  # type: ignore[attr-defined]
    one = config(block_m=32, block_n=128, cluster=cluster, stages=2)
    launcher = workload._launcher  # type: ignore[attr-defined]
    launcher(plain, one)()
    wanted = plain.c.clone()
    wide = torch.full((90, 512), float("nan"), device="cuda", dtype=plain.c.dtype)
    held = wide[8:78, 64 : 64 + 264]
    operands = Operands(a=plain.a, b=plain.b, c=held, a_scale=plain.a_scale, b_scale=plain.b_scale)
    launcher(operands, one)()
    assert torch.equal(held, wanted)
    held.fill_(float("nan"))
    assert wide.isnan().all()


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_split_of_k_gives_the_same_bits_every_time(interleaved: bool) -> None:
    import torch

    problem = Gemm(m=24, n=2048, k=8192, recipe=recipe("bf16"), out="fp32")
    workload = FAMILY.workload(problem, device="cuda", seed=3)
    run = workload.launchers(config(block_m=32, cluster=8, interleaved=interleaved), 1)[0]
    operands = workload.operands  # type: ignore[attr-defined]
    run()
    first = operands.c.clone()
    for _ in range(50):
        operands.c.fill_(float("nan"))
        run()
        assert torch.equal(operands.c, first)


def test_integer_sums_are_exact_whatever_the_split() -> None:
    import torch

    problem = Gemm(m=40, n=520, k=6000, recipe=recipe("int8-row"), out="fp32")
    workload = FAMILY.workload(problem, device="cuda", seed=1)
    operands = workload.operands  # type: ignore[attr-defined]
    results = []
    for _, one in runnable(problem):
        operands.c.fill_(float("nan"))
        workload.launchers(one, 1)[0]()
        results.append(operands.c.clone())
    assert len(results) >= 12
    assert all(torch.equal(found, results[0]) for found in results)


@pytest.mark.parametrize("cluster", [1, 4])
def test_a_nan_scale_poisons_its_rows_and_nothing_else(cluster: int) -> None:
    import torch

    problem = Gemm(m=48, n=256, k=1024, recipe=recipe("deepseek-fp8"))
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    operands = workload.operands  # type: ignore[attr-defined]
    operands.a_scale[3, 5] = float("nan")
    operands.c.fill_(1.0)
    workload.launchers(config(cluster=cluster), 1)[0]()
    bad = operands.c.isnan()
    assert bad[3].all()
    assert not bad[torch.arange(48) != 3].any()
    operands.a_scale[3, 5] = 1.0
    operands.b_scale[1, 2] = float("nan")
    workload.launchers(config(cluster=cluster), 1)[0]()
    bad = operands.c.isnan()
    assert bad[:, 128:].all()
    assert not bad[:, :128].any()


@pytest.mark.parametrize("k", [1024, 1040, 1152])  # scales in 16 bytes, in bytes, in words
@pytest.mark.parametrize("cluster", [1, 4])
def test_mx_scales_that_are_no_plain_exponents(cluster: int, k: int) -> None:
    """NaN poisons its row or column and nothing else; 2^-127 is what it says."""
    import torch

    problem = Gemm(m=47, n=200, k=k, recipe=recipe("mxfp8-e4m3"), out="fp32")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    operands = workload.operands  # type: ignore[attr-defined]
    run = workload.launchers(config(cluster=cluster), 1)[0]

    def values(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        powers = torch.exp2(scales.double() - 127).repeat_interleave(32, 1)
        return codes.double() * powers[:, : codes.shape[1]]

    operands.a_scale[5], operands.b_scale[9] = 0, 220
    a = values(operands.a, operands.a_scale)
    b = values(operands.b, operands.b_scale)
    operands.c.fill_(float("nan"))
    run()
    error = (operands.c.double() - a @ b.T).abs() / (a.abs() @ b.abs().T)
    assert error.max() < 2.0**-10
    assert operands.c[5, 9] != 0
    operands.a_scale[3, 7] = 255
    operands.b_scale[199, -1] = 255
    operands.c.fill_(1.0)
    run()
    bad = operands.c.isnan()
    assert bad[3].all()
    assert bad[:, 199].all()
    bad[3], bad[:, 199] = False, False
    assert not bad.any()


@pytest.mark.parametrize("cluster", [1, 8])
def test_a_graph_replays_the_launch(cluster: int) -> None:
    import torch

    problem = Gemm(m=16, n=2048, k=4096, recipe=recipe("e4m3-row"))
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    run = workload.launchers(config(cluster=cluster), 1)[0]
    operands = workload.operands  # type: ignore[attr-defined]
    run()
    wanted = operands.c.clone()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(3):
            run()
    for _ in range(3):
        operands.c.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(operands.c, wanted)
