"""The grouped Hopper GEMM without a GPU: what NVRTC makes of it, and its launcher."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from hopper_gemm_cases import SOURCE, THREADS, config
from nvrtc_compile import compile_cuda
from recorded_launches import record

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper, gemm_hopper_grouped, hopper_grid
from tiles.kernels.grouped_gemm import expert_gemm
from tiles.kernels.hopper_gemm import HopperGemmConfig, hopper_smem_bytes, scale_mode
from tiles.kernels.hopper_grouped_gemm import MAX_GROUPS, SCALES, HopperGroupedGemm
from tiles.problems import GroupedGemm, parse_problem

H200 = load_gpu("h200").limits
COMPILED = {
    "256 experts": ("256x32768x4096x7168:deepseek-fp8:contiguous:bf16", config(stages=6)),
    "cluster": ("8x32768x7168x2048:deepseek-fp8:padded.128:bf16", config(stages=5, cluster=2)),
    "int8, chained": (
        "32x8192x4096x7168:int8-b1x128:masked.1024:fp32",
        config(stages=4, block_n=176, chained=True),
    ),
    "bf16": ("1024x32768x4096x7168:bf16:contiguous:bf16", config(stages=3, block_n=256)),
    "row in turns": (
        "8x32768x4096x7168:e4m3-row:contiguous:fp16",
        config(pingpong=True, stages=4, store_buffers=2),
    ),
}


def grouped(text: str) -> GroupedGemm:
    problem = parse_problem(f"grouped_gemm:{text}")
    assert isinstance(problem, GroupedGemm)
    return problem


@pytest.mark.parametrize("case", COMPILED)
def test_groups_cost_neither_spills_nor_more_registers(case: str) -> None:
    text, one = COMPILED[case]
    problem = grouped(text)
    scales = scale_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    options = gemm_hopper.options(
        element=problem.recipe.activation.element.name,
        out=problem.out,
        scales=scales,
        config=one.to_dict(),
        groups=problem.experts,
    )
    found = compile_cuda(SOURCE, (*options, "--ptxas-options=-v"))
    assert "warning" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    used = re.search(r"Used (\d+) registers.* (\d+) bytes smem", found.log)
    assert used is not None, found.log
    assert int(used[1]) * THREADS <= H200.registers_per_sm
    dynamic = gemm_hopper.smem_bytes(scales=scales, config=one.to_dict(), groups=problem.experts)
    table = ConfigTable.of([one])
    estimate = hopper_smem_bytes(expert_gemm(problem), table, groups=problem.experts)[0]
    assert estimate == dynamic + int(used[2])
    # Rows at a group's end are stored by threads, whole tiles by the copy engine.
    assert "cp.async.bulk.tensor.2d.global.shared::cta" in found.ptx
    assert "st.global.v4" in found.ptx
    assert "wgmma.mma_async" in found.ptx


def test_groups_have_no_scales_of_blocks_of_rows() -> None:
    options = gemm_hopper.options(
        element="int8", out="bf16", scales="b128x128", config=config().to_dict(), groups=8
    )
    with pytest.raises(OfflineCompileError, match="groups have no scales, those of rows"):
        compile_cuda(SOURCE, options)


def test_compile_facts_without_a_gpu() -> None:
    text, one = COMPILED["256 experts"]
    facts = HopperGroupedGemm().compile_offline(grouped(text), one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", THREADS, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (6, 0)
    assert facts.refusal(H200) == ""


def test_descriptor_and_launcher_name_the_same_limits() -> None:
    assert SCALES == gemm_hopper_grouped.SCALES
    assert MAX_GROUPS == gemm_hopper_grouped.MAX_GROUPS


#: Five experts of 128 x 256 weights, 64 rows in all.
GOOD: dict[str, Any] = {
    "a": array((64, 256), "uint8", pointer=1 << 20),
    "b": array((5, 128, 256), "uint8", pointer=2 << 20),
    "c": array((64, 128), "uint16", pointer=3 << 20),
    "a_scale": array((64, 2), "float32", strides=(4, 256), pointer=4 << 20),
    "b_scale": array((5, 1, 2), "float32", pointer=5 << 20),
    "offsets": array((6,), "int64"),
    "counts": None,
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "b1x128",
    "config": config().to_dict(),
}
MASKED: dict[str, Any] = {
    "a": array((5, 32, 256), "uint8", pointer=1 << 20),
    "c": array((5, 32, 128), "uint16", pointer=3 << 20),
    "a_scale": array((5, 32, 2), "float32", strides=(256, 4, 128), pointer=4 << 20),
    "offsets": None,
    "counts": array((5,), "int32"),
}
ROW: dict[str, Any] = {
    "scales": "row",
    "a_scale": array((64, 1), "float32", pointer=4 << 20),
    "b_scale": array((5, 128, 1), "float32", pointer=5 << 20),
}


def launch(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> SimpleNamespace:
    """What the launcher gave to the kernel."""
    found, keys = record(monkeypatch, gemm_hopper_grouped), []
    monkeypatch.setattr(gemm_hopper_grouped, "compiled_kernel", lambda *key: keys.append(key))
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    gemm_hopper_grouped.launch(**arguments)
    ((grid, _, values, smem),) = found.launches
    return SimpleNamespace(maps=found.maps, key=keys[0], grid=grid, values=values, smem=smem)


def test_maps_lie_over_all_experts_and_the_grid_over_the_most_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = launch(monkeypatch, **GOOD)
    a, b, scale, c = seen.maps
    assert a == (1 << 20, 1, 256, 64, 256, (128, 128))
    assert b == (2 << 20, 1, 256, 5 * 128, 256, (128, 128))
    assert scale == (4 << 20, 4, 64, 2, 256, (132, 1))  # a group starts at any row
    assert c == (3 << 20, 2, 128, 64, 256, (64, 64))
    assert seen.grid == 5  # each of five experts may have a ragged tile
    assert seen.key[-1] == 5
    groups = seen.values[-1]
    assert (groups["offsets"], groups["counts"]) == (GOOD["offsets"].data.ptr, 0)
    assert (groups["c"], groups["c_pitch"]) == (3 << 20, 256)
    assert (groups["capacity"], groups["scale_rows"]) == (64, 0)
    assert groups.dtype.itemsize == 40  # as the compiler lays the struct out


def test_masked_experts_have_scales_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = launch(monkeypatch, **GOOD | MASKED)
    a, _, scale, c = seen.maps
    assert a[2:4] == (256, 5 * 32)
    assert c[2:4] == (128, 5 * 32)
    assert scale == (4 << 20, 4, 32, 5 * 2, 128, (132, 1))
    groups = seen.values[-1]
    assert (groups["offsets"], groups["counts"]) == (0, MASKED["counts"].data.ptr)
    assert (groups["capacity"], groups["scale_rows"]) == (32, 2)
    assert seen.values[6:9] == (5 * 32, 128, 256)
    launch(monkeypatch, **GOOD | {"counts": array((5,), "int32")})  # padded


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"a": array((5, 64, 256), "uint8")}, ValueError, "a has 3 dimensions: it must have 2"),
        ({"b": array((128, 256), "uint8")}, ValueError, "b has 2 dimensions: it must have 3"),
        (
            {"b": array((5, 128, 128), "uint8")},
            ValueError,
            r"a has shape .*: it must be \(64, 128\)",
        ),
        ({"c": array((64, 64), "uint16")}, ValueError, r"c has shape \(64, 64\)"),
        ({"c": array((64, 128), "float32")}, TypeError, "c has dtype float32: it must be uint16"),
        ({"a": array((64, 256), "uint8", pointer=4104)}, ValueError, "a: rows must be contiguous"),
        (
            {"b": array((5, 128, 256), "uint8", strides=(40960, 256, 1))},
            ValueError,
            "its matrices must follow each other",
        ),
        (
            {"c": GOOD["c"], "a": array((64, 256), "uint8", pointer=3 << 20)},
            ValueError,
            "c overlaps a",
        ),
        ({"offsets": array((6,), "int64", pointer=3 << 20)}, ValueError, "c overlaps offsets"),
        ({"counts": array((5,), "int32", pointer=3 << 20)}, ValueError, "c overlaps counts"),
        ({"offsets": None}, ValueError, "give offsets, counts"),
        ({"offsets": array((5,), "int64")}, ValueError, "contiguous with 6 entries"),
        ({"offsets": array((6,), "int32")}, TypeError, "offsets has dtype int32: it must be int64"),
        ({"counts": array((6,), "int32")}, ValueError, "contiguous with 5 entries"),
        ({"counts": array((5,), "int64")}, TypeError, "counts has dtype int64: it must be int32"),
        ({"counts": array((5,), "int32", device=1)}, ValueError, "must share one"),
        ({"scales": "tensor"}, ValueError, "groups take one of none, row, b1x128"),
        ({"scales": "none"}, ValueError, "a_scale is given"),
        ({"a_scale": None}, TypeError, "a_scale is NoneType"),
        ({"a_scale": array((64, 2), "float32")}, ValueError, "its columns must be contiguous"),
        ({"b_scale": array((1, 2), "float32")}, ValueError, r"it must be \(5, 1, 2\)"),
        (
            {"b_scale": array((5, 1, 2), "float32", strides=(16, 8, 4))},
            ValueError,
            "b_scale has strides .*: it must be row-major",
        ),
        (ROW | {"a_scale": array((64, 2), "float32")}, ValueError, r"it must be \(64, 1\)"),
        (
            MASKED | {"a_scale": array((5, 32, 2), "float32", strides=(512, 4, 128))},
            ValueError,
            "experts must follow each other",
        ),
        (
            ROW
            | {
                "element": "int8",
                "a": array((64, 133152), "int8"),
                "b": array((5, 128, 133152), "int8"),
            },
            ValueError,
            "could overflow",
        ),
        (
            {
                "b": array((5, 100, 256), "uint8", pointer=2 << 20),
                "c": array((64, 100), "uint16", strides=(256, 2), pointer=3 << 20),
            },
            ValueError,
            "N = 100: rows of C take 200 bytes",
        ),
        ({"config": config(block_n=80).to_dict()}, ValueError, "block_n = 80"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_compiled(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gemm_hopper_grouped.launch(**GOOD | change)


def test_more_experts_than_the_table_holds_are_refused() -> None:
    many = {"b": array((1025, 128, 256), "uint8")}
    with pytest.raises(ValueError, match="b has 1025 experts: at most 1024"):
        gemm_hopper_grouped.launch(**GOOD | many)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "deepseek-fp8", "int8-b1x128"])
def test_any_legal_configuration_compiles_without_spills(name: str) -> None:
    problem = grouped(f"64x65536x4096x7168:{name}:contiguous:bf16")
    space = HopperGroupedGemm().legal_space(problem, H200).accepted
    first = np.flatnonzero(space["group_m"] == 1)
    for row in np.random.default_rng(0).choice(first, min(8, len(first)), replace=False):
        one = space.config(int(row))
        assert isinstance(one, HopperGemmConfig)
        facts = HopperGroupedGemm().compile_offline(problem, one, H200)
        assert facts is not None
        assert facts.stack_bytes == 0
