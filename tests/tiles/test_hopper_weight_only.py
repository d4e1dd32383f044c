"""Hopper's weight-only product without a GPU: what is legal, what is refused, defaults."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hopper_weight_cases import gemm
from hopper_weight_only_cases import PLAIN, config, options
from launcher_gate import broken_rows, takes

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels import hopper_weight_only_rules as rules
from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.cuda import hopper_weight_operands as operands
from tiles.kernels.hopper_weight_only import HopperWeightOnly, HopperWeightOnlyConfig
from tiles.problems import parse_problem

FAMILY = HopperWeightOnly()
H200 = load_gpu("h200").limits
#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"warpgroups", "tile shape", "warps", "registers", "counts", "cluster"}


def test_what_was_stored_without_a_cluster_has_one_cta() -> None:
    stored = {name: value for name, value in PLAIN.items() if name != "cluster"}
    assert HopperWeightOnlyConfig.from_dict(stored) == config(cluster=1)


def test_a_cluster_has_a_panel_for_every_cta() -> None:
    fields = config(cluster=8).to_dict()
    assert launcher.ctas(5, 96, 8, fields, 132) == 16
    with pytest.raises(ValueError, match="cluster = 8: 7 panels along K"):
        launcher.ctas(5, 96, 7, fields, 132)
    with pytest.raises(ValueError, match="cluster = 2, per_sm = 1"):
        options(gemm("8x4096x4096", "int4.g128"), config(cluster=2, per_sm=1))


def test_descriptor_and_launcher_name_the_same_choices() -> None:
    for name in ("BLOCK_M", "WARP_ROWS", "WARPS_K", "MAX_BLOCK_N", "MAX_WARPS", "MAX_SUMS",
                 "MAX_STAGES", "MAX_PER_SM", "CLUSTERS"):  # fmt: skip
        assert getattr(rules, name) == getattr(launcher, name), name
    for name in ("COUNTED_TILES", "ROWS_MULTIPLE", "SCALE_BYTES"):
        assert getattr(rules, name) == getattr(operands, name), name


@cache
def wide_table() -> ConfigTable:
    """The kernel's choices, and beyond them values that it does not have."""
    return ConfigTable.product(
        HopperWeightOnlyConfig,
        block_m=(4, 8, 24, 32, 64, 128),
        block_n=(8, 16, 24, 64, 224, 512, 1024),
        warp_rows=(8, 16, 32, 48, 64),
        warps_k=(0, 1, 2, 3, 8),
        stages=(1, 2, 8, 12, 48, 49),
        per_sm=(-1, 0, 4, 5),
        cluster=(0, 1, 2, 8, 16),
        wgmma=(False, True),
    )


def test_the_gate_and_the_launcher_agree_on_every_configuration() -> None:
    problem, table = gemm("8x4096x4096", "int4.g128"), wide_table()
    broken = broken_rows(FAMILY, problem, table, H200, HARD_RULES)
    chosen = np.random.default_rng(0).choice(len(table), 2000, replace=False)
    held = np.flatnonzero(~broken)[:200]
    for row in (*chosen.tolist(), *held.tolist()):
        one = table.config(row)
        assert isinstance(one, HopperWeightOnlyConfig)
        assert takes(options, problem, one) == (not broken[row]), one


@pytest.mark.parametrize("weight", ["int4.g128", "uint4.g32", "nvfp4", "int8.row"])
@pytest.mark.parametrize("shape", ["1x16x32", "1x4096x4096", "8x28672x4096", "33x57344x8192",
                                   "256x8192x8192"])  # fmt: skip
def test_every_legal_space_holds_the_default_and_fits(weight: str, shape: str) -> None:
    problem = gemm(shape, weight)
    assert FAMILY.refusal(problem, H200) is None
    space = FAMILY.legal_space(problem, H200)
    assert len(space.accepted) >= (1 if shape == "1x16x32" else 20)
    smem = rules.weight_smem_bytes(problem, space.accepted)
    # The system takes a KiB of every CTA's.
    together = (smem + 1024) * np.maximum(space.accepted["per_sm"], 1)
    assert (together <= load_gpu("h200").smem_bytes_per_sm).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert takes(options, problem, default)


def test_one_wave_of_tall_tiles_is_the_default_of_a_decode_step() -> None:
    for n, width in ((28672, 224), (10240, 80), (8192, 64), (57344, 224)):
        assert FAMILY.default(gemm(f"1x{n}x8192", "int4.g128"), H200).block_n == width


def test_two_ctas_share_a_tile_of_a_layer_of_few_rows() -> None:
    for n, width in ((4096, 64), (6144, 96), (1024, 16)):
        default = FAMILY.default(gemm(f"1x{n}x8192", "int4.g128"), H200)
        assert (default.block_n, default.cluster) == (width, 2)
    assert FAMILY.default(gemm("1x4096x96", "int4.g128"), H200).cluster == 1  # one panel


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (gemm("8x4096x4096", "int4.g128"), None),
        (gemm("8x4096x4096", "uint4.g64"), None),
        (gemm("8x4096x4096", "e2m1fn.mx"), None),
        (gemm("8x4096x4096", "e4m3fn.row"), None),
        (gemm("8x4096x4096", "e2m1fn.mx", "fp16"), "E8M0 scales need the range of bf16"),
        (gemm("257x4096x4096", "int4.g128"), "M 257: hopper_weight_only is for up to 256 rows"),
        (gemm("8x4104x4096", "int4.g128"), "N 4104: hopper_weight_only takes multiples of 16"),
        (gemm("8x4096x4100", "int4.g128"), "K: rows of 8200 bytes"),
        (gemm("8x4096x4096", "int8.g32"), "groups along K are multiples of 64"),
        (gemm("8x4096x4096", "bf16"), "takes scaled int4, uint4"),
        (gemm("8x4096x4096", "int8.row", "int8.row"), "takes plain bf16 or fp16 activations"),
        (parse_problem("quantize:64x64:int8.row:bf16"), "serves gemm problems"),
    ],
    ids=str,
)
def test_refusals(problem: Any, reason: str | None) -> None:
    found = FAMILY.refusal(problem, H200)
    assert found is None if reason is None else reason in (found or ""), found


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits, problem = load_gpu(name).limits, gemm("8x4096x4096", "int4.g128")
    found = FAMILY.refusal(problem, limits)
    assert (found is None) == (limits.capability == 90), found
    if found is None:
        assert FAMILY.path(problem, limits) is NumericPath.EMULATED
