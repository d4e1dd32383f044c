"""Hopper's weight-only product for many rows on a GPU: formats, outputs, tails, clusters."""

import numpy as np
import pytest
from stages import fitting

from sim import load_gpu
from tiles.kernels.hopper_weight_prefill import HopperWeightPrefill, HopperWeightPrefillConfig
from tiles.problems import Gemm
from tiles.recipes import Recipe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("hopper")]

FAMILY, LIMITS = HopperWeightPrefill(), load_gpu("h200").limits
PLAIN = {
    "block_m": 128, "block_n": 256, "stages": 7, "cluster": 1, "group_m": 8, "store_buffers": 1,
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


def config(**fields: int) -> HopperWeightPrefillConfig:
    return HopperWeightPrefillConfig.from_dict(PLAIN | fields)


CONFIGS = {
    "128 x 256": config(),
    "two CTAs share X": config(cluster=2, store_buffers=2),
    "256 x 128": config(block_m=256, block_n=128, stages=5),
    "192 x 128, two CTAs": config(block_m=192, block_n=128, stages=6, cluster=2),
    "128 x 128": config(block_n=128, stages=10),
    "96 x 256": config(block_m=96),
    "64 x 128": config(block_m=64, block_n=128, stages=12),
}
#: Tails of every extent; fewer tiles than multiprocessors, and more.
SHAPES = ((70, 272, 1032), (300, 1040, 2056), (65, 4096, 392), (2048, 4112, 520))


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
            accuracy = workload.check(fitting(FAMILY, problem, one, LIMITS))  # poisons the output
            assert accuracy.ok, (problem, text, accuracy)


@pytest.mark.parametrize("shape", [(2048, 4096, 4096), (512, 6144, 4096), (100, 4096, 14336)])
def test_configurations_of_the_space_at_prefill_shapes(shape: tuple[int, int, int]) -> None:
    problem = gemm(shape, "bf16", "int4.g128")
    workload = FAMILY.workload(problem, device="cuda", seed=shape[0])
    legal = FAMILY.legal_space(problem, LIMITS).accepted
    chosen = np.random.default_rng(shape[0]).choice(len(legal), 6, replace=False)
    for one in (FAMILY.default(problem, LIMITS), *map(legal.config, chosen.tolist())):
        accuracy = workload.check(one)
        assert accuracy.ok, (problem, one, accuracy)


@pytest.mark.parametrize("fields", [{}, {"cluster": 2}, {"block_n": 128}], ids=str)
def test_the_same_bits_every_time_and_nothing_around_c(fields: dict[str, int]) -> None:
    import torch

    problem = gemm((1000, 4112, 2048), "bf16", "int4.g128")
    workload = FAMILY.workload(problem, device="cuda", seed=3)
    one = config(**fields)
    run = workload.launchers(one, 1)[0]
    operands = workload.operands  # type: ignore[attr-defined]
    run()
    first = operands.c.clone()
    for _ in range(50):
        operands.c.fill_(float("nan"))
        run()
        assert torch.equal(operands.c, first)
    wide = torch.full((1004, 4160), float("nan"), device="cuda", dtype=torch.bfloat16)
    held = wide[2:1002, 16 : 16 + 4112]
    moved = type(operands)(x=operands.x, weight=operands.weight, c=held)
    workload._launcher(moved, one)()  # type: ignore[attr-defined]
    assert torch.equal(held, first)
    held.fill_(float("nan"))
    assert wide.isnan().all()
