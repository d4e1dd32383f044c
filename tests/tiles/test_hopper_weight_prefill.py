"""Hopper's weight-only product for many rows without a GPU: compilation, legality, launches."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from hopper_weight_cases import formats, gemm
from launcher_gate import broken_rows, takes
from nvrtc_compile import compile_cuda, stages_given_up_unread
from recorded_launches import check_refuses, record
from wgmma_operands import overwritten_operands

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels import hopper_weight_prefill_rules as rules
from tiles.kernels.cuda import gemm_hopper_weight_prefill as launcher
from tiles.kernels.hopper_weight_prefill import HopperWeightPrefill, HopperWeightPrefillConfig
from tiles.problems import Gemm, parse_problem

SOURCE = Path(launcher.__file__).with_suffix(".cu")
FAMILY = HopperWeightPrefill()
H200 = load_gpu("h200").limits
HARD_RULES = {"tile shape", "counts"}
PLAIN = {
    "block_m": 128, "block_n": 256, "stages": 8, "cluster": 1, "group_m": 8, "store_buffers": 1,
}  # fmt: skip


def config(**fields: int) -> HopperWeightPrefillConfig:
    return HopperWeightPrefillConfig.from_dict(PLAIN | fields)


def options(problem: Gemm, one: HopperWeightPrefillConfig) -> tuple[str, ...]:
    return launcher.options(
        element=problem.recipe.activation.element.name,
        out=problem.out,
        config=one.to_dict(),
        **formats(problem),
    )


LONG = "2048x4096x4096"
COMPILED = {
    "128 x 256": (gemm(LONG, "int4.g128"), config()),
    "256 x 128, two CTAs": (
        gemm(LONG, "int4.g128"), config(block_m=256, block_n=128, stages=2, cluster=2)
    ),
    "fp16, zero points, fp32 out": (
        gemm(LONG, "uint4.g32", "fp16", "fp32"), config(block_m=96, stages=3)
    ),
    "nvfp4": (gemm(LONG, "nvfp4"), config(block_m=192, block_n=128, stages=3)),
    "int8": (gemm(LONG, "int8.row"), config(block_n=128, stages=6)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiles_without_spills_or_waits(case: str) -> None:
    problem, one = COMPILED[case]
    assert FAMILY.refusal(problem, H200) is None
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    assert "warning" not in found.log
    assert "Performance Loss" not in found.log  # products wait for each other
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    code = found.machine_code()
    overwritten, products = overwritten_operands(code)
    assert (overwritten, products > 0) == ([], True)
    assert "BRA.U.ANY" not in code
    asked = launcher.smem_bytes(out=problem.out, config=one.to_dict(), **formats(problem))
    assert asked == rules.prefill_smem_bytes(problem, ConfigTable.of([one]))[0]
    if case == "128 x 256":  # 11 instructions for eight codes, 4 for their scale
        assert len(re.findall(r"\bHGMMA\.64x128x16\.F32\.BF16", code)) == 16
        for pattern, most in (("PRMT", 80), ("HFMA2", 80), ("HMUL2", 80)):
            assert 64 <= len(re.findall(rf"\b{pattern}\.?", code)) <= most, pattern


def test_an_operand_that_is_written_too_soon_is_seen() -> None:
    lines = (
        ".L_x_1:",
        "/*0000*/ HGMMA.64x128x16.F32.BF16 R88, R152, gdesc[UR8], R88, gsb0 ;",
        "/*0010*/ HGMMA.64x128x16.F32.BF16 R88, R160, gdesc[UR8], R88, gsb0 ;",
        "/*0020*/ WARPGROUP.DEPBAR.LE gsb0, 0x1 ;",
        "/*0030*/ LDS.128 R152, [R3] ;",
        "/*0040*/ HFMA2.BF16_V2 R{}, R7, R8, R9 ;",
        "/*0050*/ WARPGROUP.DEPBAR.LE gsb0, 0x0 ;",
        *(f"/*0{i}00*/ IADD3 R3, R3, 0x1, RZ ;" for i in range(1, 9)),
        "/*0060*/ @P0 BRA `(.L_x_1) ;",
    )
    code = "\n".join(lines)
    assert overwritten_operands(code.replace("{}", "155")) == ([], 4)
    assert len(overwritten_operands(code.replace("{}", "161"))[0]) == 2


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm(LONG, "int4.g128"), config()
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", 384, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (8, 0)
    assert facts.smem_bytes == rules.prefill_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_descriptor_and_launcher_name_the_same_choices() -> None:
    for name in ("BLOCK_M", "BLOCK_N", "MAX_BLOCK_M", "CLUSTERS", "MAX_STAGES", "CONSUMERS"):
        assert getattr(rules, name) == getattr(launcher, name), name


def test_the_gate_and_the_launcher_agree_on_every_configuration() -> None:
    problem = gemm(LONG, "int4.g128")
    table = ConfigTable.product(
        HopperWeightPrefillConfig,
        block_m=(32, 64, 96, 128, 192, 256, 512),
        block_n=(64, 128, 192, 256),
        stages=(1, 2, 16, 17),
        cluster=(0, 1, 2, 4),
        group_m=(0, 1, 16),
        store_buffers=(0, 1, 2, 3),
    )
    broken = broken_rows(FAMILY, problem, table, H200, HARD_RULES)
    for row in range(len(table)):
        one = table.config(row)
        assert isinstance(one, HopperWeightPrefillConfig)
        assert takes(options, problem, one) == (not broken[row]), one


@pytest.mark.parametrize("weight", ["int4.g128", "uint4.g32", "nvfp4", "int8.row"])
@pytest.mark.parametrize("shape", ["64x16x32", "100x4096x4096", LONG, "16384x57344x8192"])
def test_every_legal_space_holds_the_default(weight: str, shape: str) -> None:
    problem = gemm(shape, weight)
    assert FAMILY.refusal(problem, H200) is None
    space = FAMILY.legal_space(problem, H200)
    assert len(space.accepted) >= (1 if shape == "64x16x32" else 20)
    assert (rules.prefill_smem_bytes(problem, space.accepted) <= H200.smem_bytes_per_cta).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert takes(options, problem, default)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (gemm(LONG, "int4.g128"), None),
        (gemm("64x4096x4096", "e2m1fn.mx"), None),
        (gemm("63x4096x4096", "int4.g128"), "M 63: hopper_weight_prefill is for 64 rows"),
        (gemm("64x4104x4096", "int4.g128"), "N 4104: hopper_weight_prefill takes multiples of 16"),
        (gemm("64x4096x4100", "int4.g128"), "K: rows of 8200 bytes"),
        (gemm("64x4096x4096", "e2m1fn.mx", "fp16"), "E8M0 scales need the range of bf16"),
        (gemm("64x4096x4096", "bf16"), "takes scaled int4, uint4"),
        (parse_problem("quantize:64x64:int8.row:bf16"), "serves gemm problems"),
    ],
    ids=str,
)
def test_refusals(problem: Any, reason: str | None) -> None:
    found = FAMILY.refusal(problem, H200)
    assert found is None if reason is None else reason in (found or ""), found


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits, problem = load_gpu(name).limits, gemm(LONG, "int4.g128")
    found = FAMILY.refusal(problem, limits)
    assert (found is None) == (limits.capability == 90), found
    if found is None:
        assert FAMILY.path(problem, limits) is NumericPath.EMULATED


def good() -> dict[str, Any]:
    """Arguments of a launch: 300 rows by 528 x 392 int4 weights with groups of 128."""
    return {
        "x": array((300, 392), "uint16"),
        "codes": array((4, 528, 64), "uint8"),
        "c": array((300, 528), "uint16"),
        "scale": array((4, 528), "float16"),
        "row_scale": array((528,), "float32"),
        "element": "bf16",
        "out": "bf16",
        "weight": "int4",
        "scale_format": "fp16",
        "group": 128,
        "config": config(cluster=2).to_dict(),
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((300, 392))}, TypeError, "x is ndarray: it must be a CuPy array"),
        ({"scale": None}, ValueError, "scale is missing: int4 weights with groups of 128"),
        ({"group": 48}, ValueError, "group = 48 of int4: a multiple of 128"),
        ({"config": {"block_m": 8}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=192).to_dict()}, ValueError, "block_m = 192, block_n = 256"),
        ({"config": config(stages=17).to_dict()}, ValueError, "stages = 17"),
        ({"config": config(cluster=4).to_dict()}, ValueError, "cluster = 4, store_buffers = 1"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_refuses(monkeypatch, launcher, good() | change, error, message)


def test_a_launch_has_whole_clusters_along_n(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record(monkeypatch, launcher)
    monkeypatch.setattr("tiles.kernels.cuda.hopper_grid.multiprocessors", lambda device: 9)
    launcher.launch(**good())
    ((grid, block, arguments, smem),) = found.launches
    # 3 rows of tiles by 2 clusters of two: 6 clusters, of which 4 at a time are resident.
    assert (grid, block) == (8, 384)
    assert found.maps[0][1:] == (2, 392, 300, 784, (64, 64))
    assert found.maps[1][1:] == (2, 528, 300, 1056, (64, 64))
    assert [int(x) for x in arguments[-3:]] == [300, 528, 4]  # M, N, panels
    assert smem == 8 * (128 * 128 + 16) + 5 * (256 * 64 + 512) + 2 * 8192
