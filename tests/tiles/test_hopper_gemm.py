"""The Hopper GEMM without a GPU: what NVRTC makes of it, its legality, its launcher's refusals."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from config_sample import sample
from cupy_arrays import array
from nvrtc_compile import compile_cuda, stages_given_up_unread

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath, TileConfig
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper, hopper_grid
from tiles.kernels.hopper_gemm import HopperGemm, HopperGemmConfig, hopper_smem_bytes, scale_mode
from tiles.problems import Gemm, parse_problem
from tiles.recipes import recipe

SOURCE = Path(gemm_hopper.__file__).with_suffix(".cu")
FAMILY = HopperGemm()
H200 = load_gpu("h200").limits
#: A recipe for every pair of element and scale mode that a recipe names.
RECIPES = (
    "bf16",
    "fp16",
    "unit-scaling",
    "e4m3-tensor",
    "e4m3-row",
    "deepseek-fp8",
    "e5m2-tensor",
    "e5m2-row",
    "e5m2-b128",
    "e4m3-b128",
    "int8-tensor",
    "int8-row",
    "int8-b128",
)
#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"tile shape", "counts", "promotion", "registers", "chain"}
THREADS = 384


def gemm(text: str) -> Gemm:
    problem = parse_problem(text)
    assert isinstance(problem, Gemm)
    return problem


def config(**fields: int | bool) -> HopperGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    return HopperGemmConfig.from_dict(plain | {"pingpong": False, "store_buffers": 1} | fields)


def options(problem: Gemm, one: HopperGemmConfig) -> tuple[str, ...]:
    """What the launcher would compile."""
    activation, weight = problem.recipe.activation, problem.recipe.weight
    scales = scale_mode(activation, weight)
    assert scales is not None
    return gemm_hopper.options(
        element=activation.element.name, out=problem.out, scales=scales, config=one.to_dict()
    )


# Every element, output and scale mode, every tile, both schedules, clusters and buffers.
COMPILED = {
    "bf16": ("bf16:bf16", config(block_n=256, cluster=2), "m64n256k16.f32.bf16.bf16"),
    "bf16, 176 columns": ("bf16:bf16", config(block_n=176), "m64n176k16.f32.bf16.bf16"),
    "row, 208 columns in turns": (
        "e4m3-row:bf16",
        config(block_n=208, pingpong=True, block_m=64),
        "m64n208k32.f32.e4m3.e4m3",
    ),
    "int8, 240 columns": ("int8-row:bf16", config(block_n=240), "m64n240k32.s32.s8.s8"),
    "bf16 to fp32": ("bf16:fp32", config(block_n=192), "m64n192k16.f32.bf16.bf16"),
    "fp16 in turns": (
        "fp16:fp16",
        config(block_n=256, pingpong=True, block_m=64, stages=3, store_buffers=2),
        "m64n256k16.f32.f16.f16",
    ),
    "tensor": ("e4m3-tensor:bf16", config(block_m=256, stages=3), "m64n128k32.f32.e4m3.e4m3"),
    "tensor in turns": ("e5m2-tensor:fp16", config(pingpong=True), "m64n128k32.f32.e5m2.e5m2"),
    "row": ("e4m3-row:bf16", config(block_n=256, stages=3), "m64n256k32.f32.e4m3.e4m3"),
    "row in turns": (
        "e5m2-row:bf16",
        config(pingpong=True, cluster=2, stages=5, store_buffers=2),
        "m64n128k32.f32.e5m2.e5m2",
    ),
    "1x128": ("deepseek-fp8:bf16", config(stages=6, cluster=2), "m64n128k32.f32.e4m3.e4m3"),
    "1x128, narrow": ("e5m2-b128:fp32", config(block_n=64, stages=8), "m64n64k32.f32.e5m2.e5m2"),
    "int8 row": ("int8-row:bf16", config(block_n=256, cluster=2), "m64n256k32.s32.s8.s8"),
    "int8 in turns": (
        "int8-tensor:fp32",
        config(block_n=192, block_m=64, pingpong=True),
        "m64n192k32.s32.s8.s8",
    ),
    "1x128, chained": (
        "deepseek-fp8:bf16",
        config(block_n=192, stages=5, cluster=2, chained=True),
        "m64n192k32.f32.e4m3.e4m3",
    ),
    "128x128": ("int8-b128:bf16", config(stages=6, store_buffers=2), "m64n128k32.s32.s8.s8"),
}


def check_compiled(problem: Gemm, one: HopperGemmConfig) -> str:
    """Compile, and hold registers and shared memory against what was promised; returns the PTX."""
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    foreign = [line for line in found.log.splitlines() if not line.startswith("ptxas ")]
    assert not foreign, foreign
    assert "warning" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    used = re.search(r"Used (\d+) registers.* (\d+) bytes smem", found.log)
    assert used is not None, found.log
    # What the launch asks for; consumers and producer then share it out by setmaxnreg.
    assert int(used[1]) * THREADS <= H200.registers_per_sm
    scales = scale_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    dynamic = gemm_hopper.smem_bytes(scales=scales, config=one.to_dict())
    expected = hopper_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert expected == dynamic + int(used[2])
    # A compiler that cannot follow the accumulators waits for every product at once.
    waits = found.ptx.count("wgmma.wait_group")
    assert found.machine_code().count("WARPGROUP.DEPBAR") == waits
    return found.ptx


#: One of each kind of accumulator and of promotion in the default suite, the rest among the slow.
QUICK = ("bf16", "1x128", "int8 row")


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMPILED],
)
def test_compiles_to_the_instructions_it_was_written_for(case: str) -> None:
    formats, one, instruction = COMPILED[case]
    ptx = check_compiled(gemm(f"gemm:4096x4096x4096:{formats}"), one)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in ptx
    assert "setmaxnreg.inc.sync.aligned.u32 232" in ptx
    assert "setmaxnreg.dec.sync.aligned.u32 40" in ptx
    assert "cp.async.bulk.tensor.2d.shared::cluster.global" in ptx
    assert "cp.async.bulk.tensor.2d.global.shared::cta" in ptx
    assert (".multicast::cluster" in ptx) == (one.cluster > 1)
    assert ("stmatrix" in ptx) == (not formats.endswith("fp32"))


def of_recipe(name: str, shape: str = "4096x4096x4096") -> Gemm:
    out = ("bf16", "fp16", "fp32")[RECIPES.index(name) % 3]
    return gemm(f"gemm:{shape}:{name}:{out}")


@cache
def sampled() -> dict[str, list[TileConfig]]:
    tables = {name: FAMILY.legal_space(of_recipe(name), H200).accepted for name in RECIPES}
    return sample(tables, apart=["pingpong", "chained"], free=["group_m"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_any_legal_configuration_compiles_without_spills(name: str) -> None:
    for one in sampled()[name]:
        assert isinstance(one, HopperGemmConfig)
        check_compiled(of_recipe(name), one)


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("gemm:4096x4096x4096:deepseek-fp8:bf16"), config(stages=6, cluster=2)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", THREADS, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (6, 0)
    assert facts.smem_bytes == hopper_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_the_source_has_no_default_for_a_macro() -> None:
    whole = options(gemm("gemm:256x256x256:bf16:bf16"), config())
    without = [option for option in whole if not option.startswith("-DBLOCK_N=")]
    with pytest.raises(OfflineCompileError, match="BLOCK_N"):
        compile_cuda(SOURCE, without)


@cache
def wide_table() -> ConfigTable:
    """The space, and beyond it values that the kernel does not have."""
    return ConfigTable.product(
        HopperGemmConfig,
        block_m=(32, 64, 96, 128, 256, 512),
        block_n=(16, 64, 128, 176, 192, 256, 320),
        stages=(1, 2, 9),
        cluster=(1, 2, 3),
        group_m=(0, 7),
        pingpong=(False, True),
        store_buffers=(0, 1, 3),
        chained=(False, True),
    )


def launcher_takes(problem: Gemm, one: HopperGemmConfig) -> bool:
    try:
        options(problem, one)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", RECIPES)
def test_the_gate_and_the_launcher_agree_on_every_configuration(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    for table in (FAMILY.space(problem, H200), wide_table()):
        broken = np.zeros(len(table), dtype=bool)
        for rule in FAMILY.rules(problem, table, H200):
            if rule.name in HARD_RULES:
                broken |= rule.broken
                for row in np.flatnonzero(rule.broken)[:3].tolist():
                    assert rule.explain(row)
        taken = np.array([launcher_takes(problem, one) for one in _configs(table)])
        differ = np.flatnonzero(taken == broken)
        assert len(differ) == 0, table.config(int(differ[0]))


def _configs(table: ConfigTable) -> Iterator[HopperGemmConfig]:
    for one in table:
        assert isinstance(one, HopperGemmConfig)
        yield one


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("m", [1, 16, 100, 4096])
def test_every_legal_space_holds_the_default_and_fits(name: str, m: int) -> None:
    problem = gemm(f"gemm:{m}x4096x4096:{name}:bf16")
    legal = FAMILY.legal_space(problem, H200).accepted
    assert len(legal) > 10
    assert (hopper_smem_bytes(problem, legal) <= H200.smem_bytes_per_cta).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert launcher_takes(problem, default)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("gemm:64x64x64:jetfire:bf16", "no scale mode for int8.b32x32"),
        ("gemm:64x64x64:llm-int8:bf16", "no second product for outliers"),
        ("gemm:64x64x64:nvfp4:bf16", "multiplies two of one element of bf16, fp16"),
        ("gemm:64x64x66:bf16:bf16", "K: rows of 132 bytes"),
        ("gemm:64x66x64:bf16:bf16", "N: rows of 132 bytes"),
        ("gemm:64x68x64:bf16:fp32", None),
        ("gemm:64x64x72:e4m3-row:bf16", "K: rows of 72 bytes"),
        ("gemm:64x64x133152:int8-row:bf16", "K 133152 > 133144: the int32 accumulator"),
        ("gemm:64x64x133152:int8-b128:bf16", None),
        ("quantize:64x64:int8.row:bf16", "serves gemm problems"),
    ],
)
def test_refusals(problem: str, reason: str | None) -> None:
    found = FAMILY.refusal(parse_problem(problem), H200)
    assert found is None if reason is None else reason in (found or "")


def test_sixteen_bits_have_no_scales_along_k() -> None:
    block = recipe("deepseek-fp8")
    plain = recipe("bf16").activation.element
    wide = replace(
        block,
        activation=replace(block.activation, element=plain),
        weight=replace(block.weight, element=plain),
    )
    problem = Gemm(m=128, n=128, k=256, recipe=wide)
    assert "has no scale mode" in (FAMILY.refusal(problem, H200) or "")
    with pytest.raises(ValueError, match="scales along K take 8-bit elements, not bf16"):
        gemm_hopper.options(element="bf16", out="bf16", scales="b1x128", config=config().to_dict())


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits = load_gpu(name).limits
    found = FAMILY.refusal(gemm("gemm:4096x4096x4096:bf16:bf16"), limits)
    assert (found is None) == (limits.capability == 90), found
    if found is not None:
        assert f"{name} has another" in found
    else:
        assert FAMILY.path(gemm("gemm:64x64x64:bf16:bf16"), limits) is NumericPath.NATIVE


GOOD: dict[str, Any] = {
    "a": array((64, 256), "uint8"),
    "b": array((128, 256), "uint8"),
    "c": array((64, 128), "uint16"),
    "a_scale": array((64, 2), "float32", strides=(4, 256)),
    "b_scale": array((1, 2), "float32"),
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "b1x128",
    "config": config().to_dict(),
}
#: The first address of the last row of C.
OVER_C = GOOD["c"].data.ptr + 63 * 256
ROW: dict[str, Any] = {
    "scales": "row",
    "a_scale": array((64, 1), "float32"),
    "b_scale": array((128, 1), "float32"),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"a": array((64, 256, 1), "uint8")}, ValueError, "a has 3 dimensions"),
        ({"a": array((64, 256), "int8")}, TypeError, "a has dtype int8: it must be uint8"),
        ({"b": array((128, 128), "uint8")}, ValueError, r"b has shape .*: it must be \(128, 256\)"),
        ({"c": array((64, 128), "float32")}, TypeError, "c has dtype float32: it must be uint16"),
        ({"c": array((64, 64), "uint16")}, ValueError, r"c has shape \(64, 64\)"),
        ({"a": array((0, 256), "uint8"), "c": array((0, 128), "uint16")}, ValueError, "not empty"),
        ({"a": array((64, 256), "uint8", pointer=4104)}, ValueError, "a: rows must be contiguous"),
        ({"a": array((64, 256), "uint8", strides=(264, 1))}, ValueError, "multiples of 16 bytes"),
        ({"a": array((64, 256), "uint8", strides=(0, 1))}, ValueError, "multiples of 16 bytes"),
        ({"b": array((128, 256), "uint8", strides=(1, 128))}, ValueError, "b: rows must be"),
        ({"c": array((64, 128), "uint16", pointer=4098)}, ValueError, "c: rows must be"),
        ({"a_scale": None}, TypeError, "a_scale is NoneType"),
        ({"a_scale": array((64, 2), "float32")}, ValueError, "its columns must be contiguous"),
        (
            {"a_scale": array((64, 2), "float32", strides=(4, 264))},
            ValueError,
            "a multiple of 16 bytes apart",
        ),
        (
            {"a_scale": array((64, 2), "float32", strides=(4, 128))},
            ValueError,
            "its columns must be contiguous",
        ),
        ({"b_scale": array((1, 2), "float32", strides=(4, 4))}, ValueError, "must be row-major"),
        ({"b_scale": array((2, 2), "float32")}, ValueError, r"b_scale has shape \(2, 2\)"),
        ({"scales": "none"}, ValueError, "a_scale is given: scales 'none' take none"),
        (ROW | {"a_scale": array((64, 1), "float16")}, TypeError, "a_scale has dtype float16"),
        ({"scales": "mx"}, ValueError, "scales 'mx': choose one of none, tensor, row"),
        ({"element": "e3m4"}, ValueError, "element 'e3m4': choose one of bf16, fp16"),
        ({"out": "int8"}, ValueError, "out 'int8': choose one of bf16, fp16, fp32"),
        ({"b": array((128, 256), "uint8", device=1)}, ValueError, "must share one"),
        ({"b": array((128, 256), "uint8", pointer=OVER_C)}, ValueError, "c overlaps b"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_n=80).to_dict()}, ValueError, "block_n = 80"),
        ({"config": config(block_m=64).to_dict()}, ValueError, "block_m = 64"),
        ({"config": config(pingpong=True).to_dict()}, ValueError, "no pingpong"),
        (ROW | {"config": config(stages=9).to_dict()}, ValueError, "stages = 9"),
        (ROW | {"config": config(block_m=256, block_n=192).to_dict()}, ValueError, "block_n = 192"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    with pytest.raises(error, match=message):
        gemm_hopper.launch(**(GOOD | change))
    with pytest.raises(error, match=message):
        gemm_hopper.precompile(**(GOOD | change))


def test_an_integer_sum_that_could_overflow_is_refused() -> None:
    k = 133152
    long = GOOD | {
        "a": array((64, k), "int8"),
        "b": array((128, k), "int8"),
        "a_scale": array((64, 1), "float32"),
        "b_scale": array((128, 1), "float32"),
    }
    with pytest.raises(ValueError, match="int32 sums of int8 products could overflow past 133144"):
        gemm_hopper.launch(**(long | {"element": "int8", "scales": "row"}))


@pytest.mark.parametrize(
    "change",
    [
        {},
        ROW,
        {"a": array((64, 256), "uint8", strides=(4096, 1))},
        {"a_scale": array((64, 2), "float32", strides=(4, 16384))},
        # Strides of a lone row or column mean nothing.
        {
            "a": array((1, 256), "uint8", strides=(7, 1)),
            "c": array((1, 128), "uint16", strides=(2, 2)),
            "a_scale": array((1, 2), "float32", strides=(8, 16)),
        },
        {
            "a": array((64, 128), "uint8"),
            "b": array((128, 128), "uint8"),
            "a_scale": array((64, 1), "float32", strides=(4, 4)),
            "b_scale": array((1, 1), "float32"),
        },
    ],
    ids=["plain", "row", "rows apart", "scales apart", "one row", "one block of K"],
)
def test_good_operands_get_as_far_as_cupy(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"cupy is missing: pip install 'tile-workbench\[cuda\]'"):
        gemm_hopper.launch(**(GOOD | change))


def test_tensor_maps_and_grid_follow_rows_that_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    maps: list[tuple[Any, ...]] = []
    launches: list[tuple[Any, ...]] = []

    def tensor_map(*numbers: Any) -> str:
        maps.append(numbers)
        return f"map {len(maps)}"

    def kernel(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        launches.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(gemm_hopper, "tensor_map", tensor_map)
    monkeypatch.setattr(gemm_hopper, "compiled_kernel", lambda *key: kernel)
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    apart = {
        "a": array((300, 256), "uint8", strides=(512, 1), pointer=1 << 20),
        "c": array((300, 128), "uint16", strides=(1024, 2), pointer=1 << 21),
        "a_scale": array((300, 2), "float32", strides=(4, 8192), pointer=1 << 22),
        "config": config(cluster=2).to_dict(),
    }
    gemm_hopper.launch(**(GOOD | apart))
    assert maps == [
        (1 << 20, 1, 256, 300, 512, (128, 128)),
        (GOOD["b"].data.ptr, 1, 256, 128, 256, (128, 64)),
        # No element behind the last row is read, whatever lies between columns.
        (1 << 22, 4, 300, 2, 8192, (128, 1)),
        (1 << 21, 2, 128, 300, 1024, (64, 64)),
    ]
    ((grid, block, arguments, smem),) = launches
    # Three rows of tiles make two clusters of two; there is one column of tiles.
    assert (grid, block) == ((4,), (384,))
    assert arguments[:4] == ("map 1", "map 2", "map 3", "map 4")
    assert [int(x) for x in arguments[4:]] == [1 << 22, GOOD["b_scale"].data.ptr, 300, 128, 256]
    assert smem == gemm_hopper.smem_bytes(scales="b1x128", config=apart["config"])
