"""Hopper's weight-only product on a GPU: formats, outputs, tails, shared tiles."""

import numpy as np
import pytest

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_weight_only import HopperWeightOnly, HopperWeightOnlyConfig
from tiles.kernels.hopper_weight_only_rules import capability_rules, panels_of
from tiles.problems import Gemm
from tiles.recipes import Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("hopper")]

FAMILY, LIMITS = HopperWeightOnly(), load_gpu("h200").limits
PLAIN = {
    "block_m": 8, "block_n": 64, "warp_rows": 16, "warps_k": 4, "stages": 8, "per_sm": 0,
    "cluster": 1, "wgmma": False,
}  # fmt: skip
FORMATS = (
    ("bf16", "int4.g128"),
    ("bf16", "int4.g64"),
    ("bf16", "uint4.g128"),
    ("bf16", "uint4.g32"),
    ("bf16", "e2m1fn.mx"),
    ("bf16", "nvfp4"),
    ("bf16", "int8.row"),
    ("bf16", "int8.g128"),
    ("bf16", "e4m3fn.row"),
    ("fp16", "int4.g128"),
    ("fp16", "uint4.g64"),
    ("fp16", "nvfp4"),
    ("fp16", "int8.row"),
)


def config(**fields: int) -> HopperWeightOnlyConfig:
    return HopperWeightOnlyConfig.from_dict(PLAIN | fields)


def takes(problem: Gemm, one: HopperWeightOnlyConfig) -> bool:
    """Whether the kernel has the configuration, worth trying or not."""
    table = ConfigTable.of([one])
    return not any(rule.broken[0] for rule in capability_rules(problem, table))


CONFIGS = {
    "a tile a CTA": config(),
    "tall": config(block_n=224, warps_k=1),
    "32 rows a warp": config(block_n=96, warp_rows=32, warps_k=2),
    "64 rows a warp": config(block_n=128, warp_rows=64, warps_k=4),
    "shared": config(block_n=80, warps_k=2, per_sm=1),
    "shared by two": config(block_n=32, warps_k=2, per_sm=2, stages=6),
    "16 rows": config(block_m=16, block_n=128, warp_rows=32, warps_k=2, per_sm=1),
    "32 rows": config(block_m=32, block_n=64, warp_rows=32, warps_k=2),
    "K over two CTAs": config(block_n=128, warp_rows=32, cluster=2),
    "K over eight CTAs, groups of warps": config(
        block_n=96, warp_rows=32, warps_k=2, stages=4, cluster=8
    ),
    "32 rows, K over four CTAs": config(
        block_m=32, block_n=128, warp_rows=32, warps_k=2, stages=4, cluster=4
    ),
    "warpgroups": config(block_m=32, block_n=128, warps_k=2, wgmma=True),
    "warpgroups, rows that nobody has": config(
        block_m=16, block_n=224, warps_k=1, stages=4, wgmma=True
    ),
    "warpgroups, K over two CTAs": config(block_m=32, block_n=64, warps_k=4, cluster=2, wgmma=True),
    "warpgroups, 64 rows, shared": config(
        block_m=64, block_n=96, warps_k=1, stages=4, per_sm=1, wgmma=True
    ),
    "warpgroups, one row": config(block_n=128, warps_k=2, wgmma=True),
    "64 rows": config(block_m=64, block_n=64, warps_k=2, stages=4, per_sm=1),
}
#: One row, tails of every extent, several tiles along M.
SHAPES = ((1, 4096, 4096), (7, 1040, 2056), (20, 528, 392), (70, 272, 1032))


def gemm(shape: tuple[int, int, int], activation: str, weight: str, out: str = "bf16") -> Gemm:
    m, n, k = shape
    recipe = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    return Gemm(m=m, n=n, k=k, recipe=recipe, out=out)


@pytest.mark.parametrize(("activation", "weight"), FORMATS)
def test_every_format_lies_within_its_bounds(activation: str, weight: str) -> None:
    for turn, shape in enumerate(SHAPES):
        out = ("bf16", "fp32", "fp16", "bf16")[turn]
        problem = gemm(shape, activation, weight, out)
        assert FAMILY.refusal(problem, LIMITS) is None
        workload = FAMILY.workload(problem, device="cuda", seed=turn)
        for text, one in CONFIGS.items():
            if one.cluster > panels_of(problem) or not takes(problem, one):
                continue
            accuracy = workload.check(one)  # poisons the output first
            assert accuracy.ok, (problem, text, accuracy)


@pytest.mark.parametrize("m", [1, 8, 32, 64])
def test_configurations_of_the_space_at_decode_shapes(m: int) -> None:
    for n, k in ((28672, 4096), (4096, 14336), (6144, 4096)):
        problem = gemm((m, n, k), "bf16", "int4.g128")
        workload = FAMILY.workload(problem, device="cuda", seed=n)
        legal = FAMILY.legal_space(problem, LIMITS).accepted
        chosen = np.random.default_rng(m).choice(len(legal), 4, replace=False)
        for one in (FAMILY.default(problem, LIMITS), *map(legal.config, chosen.tolist())):
            accuracy = workload.check(one)
            assert accuracy.ok, (problem, one, accuracy)


@pytest.mark.parametrize(
    "fields", [{"per_sm": 0}, {"per_sm": 1}, {"cluster": 4}, {"wgmma": True, "warps_k": 1}], ids=str
)
def test_the_same_bits_every_time_and_nothing_around_c(fields: dict[str, int]) -> None:
    import torch

    problem = gemm((5, 1040, 8192), "bf16", "int4.g128", "fp32")
    workload = FAMILY.workload(problem, device="cuda", seed=3)
    one = config(**({"block_n": 80, "warps_k": 2} | fields))
    run = workload.launchers(one, 1)[0]
    operands = workload.operands  # type: ignore[attr-defined]
    run()
    first = operands.c.clone()
    for _ in range(50):
        operands.c.fill_(float("nan"))
        run()
        assert torch.equal(operands.c, first)
    wide = torch.full((9, 1088), float("nan"), device="cuda")
    held = wide[2:7, 16 : 16 + 1040]
    moved = type(operands)(x=operands.x, weight=operands.weight, c=held)
    workload._launcher(moved, one)()  # type: ignore[attr-defined]
    assert torch.equal(held, first)
    held.fill_(float("nan"))
    assert wide.isnan().all()


@pytest.mark.parametrize("fields", [{"per_sm": 0}, {"per_sm": 2}, {"cluster": 2}], ids=str)
def test_a_graph_replays_the_launch(fields: dict[str, int]) -> None:
    import torch

    problem = gemm((8, 4096, 4096), "bf16", "int4.g128")
    workload = FAMILY.workload(problem, device="cuda", seed=0)
    run = workload.launchers(config(block_n=32, warps_k=2, stages=6, **fields), 1)[0]
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
