"""The Hopper GEMM for few rows or tiles without a GPU: compilation, legality, refusals."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from config_sample import sample
from cupy_arrays import array
from hopper_gemm_cases import GOOD, ROW, gemm
from hopper_gemm_cases import RECIPES as PLAIN_RECIPES
from nvrtc_compile import compile_cuda, stages_given_up_unread

from bench.sass import loops
from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath, TileConfig
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_skinny import (
    ACCUMULATORS,
    BLOCK_M,
    CLUSTERS,
    MAX_STAGES,
    MX_BLOCK_M,
    HopperSkinnyConfig,
    HopperSkinnyGemm,
    skinny_mode,
    skinny_smem_bytes,
    skinny_steps,
)
from tiles.problems import Gemm, parse_problem

SOURCE = Path(gemm_hopper_skinny.__file__).with_suffix(".cu")
FAMILY = HopperSkinnyGemm()
H200 = load_gpu("h200").limits
RECIPES = (*PLAIN_RECIPES, "mxfp8-e4m3", "mxfp8-e5m2")
#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"tile shape", "counts", "promotion", "registers"}
#: Registers of a thread that a CTA of so many warpgroups and one more warp can have: a quarter of
#: the file serves each of four schedulers, in units of eight a thread.
REGISTERS = {1: 255, 2: 168, 3: 128, 4: 96}


MX = {
    "scales": "mx",
    "a_scale": array((64, 8), "uint8"),
    "b_scale": array((128, 8), "uint8"),
}


def config(**fields: int | bool) -> HopperSkinnyConfig:
    plain = {"block_m": 16, "block_n": 64, "stages": 4, "cluster": 1, "interleaved": False}
    return HopperSkinnyConfig.from_dict(plain | fields)


def options(problem: Gemm, one: HopperSkinnyConfig) -> tuple[str, ...]:
    """What the launcher would compile."""
    activation, weight = problem.recipe.activation, problem.recipe.weight
    scales = skinny_mode(activation, weight)
    assert scales is not None
    return gemm_hopper_skinny.options(
        element=activation.element.name, out=problem.out, scales=scales, config=one.to_dict()
    )


def check_compiled(problem: Gemm, one: HopperSkinnyConfig) -> str:
    """Compile, and hold registers and shared memory against what was promised; returns the PTX."""
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    foreign = [line for line in found.log.splitlines() if not line.startswith("ptxas ")]
    assert not foreign, foreign
    assert "warning" not in found.log
    assert "serialized" not in found.log  # wgmma that waits for each other
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    used = re.search(r"Used (\d+) registers", found.log)
    assert used is not None, found.log
    assert int(used[1]) <= REGISTERS[one.block_n // 64]
    # All of it is what the launcher asks for.
    assert not re.search(r"bytes smem", found.log)
    scales = skinny_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    if scales == "mx" and (one.block_m, one.block_n) == (64, 64):
        assert int(used[1]) <= REGISTERS[3]  # three CTAs share a multiprocessor
    asked = gemm_hopper_skinny.smem_bytes(scales=scales, config=one.to_dict())
    assert asked == skinny_smem_bytes(problem, ConfigTable.of([one]))[0]
    return found.ptx


# Every element, output and scale mode, every width of the instruction.
COMPILED = {
    "bf16": ("bf16:bf16", config(), "m64n16k16.f32.bf16.bf16"),
    "one row": ("bf16:fp32", config(block_m=8, cluster=8), "m64n8k16.f32.bf16.bf16"),
    "fp16": (
        "fp16:fp16",
        config(block_m=32, block_n=128, cluster=2, interleaved=True),
        "m64n32k16.f32.f16.f16",
    ),
    "tensor": ("e4m3-tensor:bf16", config(block_m=48, cluster=4), "m64n48k32.f32.e4m3.e4m3"),
    "row": ("e4m3-row:bf16", config(block_m=64, block_n=256), "m64n64k32.f32.e4m3.e4m3"),
    "wide": ("e5m2-row:fp16", config(block_m=176, block_n=192), "m64n176k32.f32.e5m2.e5m2"),
    "widest": ("bf16:bf16", config(block_m=256, block_n=128, stages=3), "m64n256k16.f32.bf16"),
    "1x128": (
        "deepseek-fp8:bf16",
        config(block_m=128, block_n=128, cluster=2),
        "m64n128k32.f32.e4m3.e4m3",
    ),
    "1x128, narrow": ("e5m2-b128:fp32", config(block_m=8, cluster=8), "m64n8k32.f32.e5m2.e5m2"),
    "1x128, 96 rows": ("deepseek-fp8:bf16", config(block_m=96), "m64n96k32.f32.e4m3.e4m3"),
    "int8 row": ("int8-row:bf16", config(block_m=192, block_n=128), "m64n192k32.s32.s8.s8"),
    "128x128": (
        "int8-b128:bf16",
        config(block_m=64, block_n=256, cluster=8),
        "m64n64k32.s32.s8.s8",
    ),
    "MX": ("mxfp8-e4m3:bf16", config(), "m64n16k32.f32.e4m3.e4m3"),
    "MX, split": (
        "mxfp8-e4m3:bf16",
        config(block_n=192, cluster=8, interleaved=True),
        "m64n16k32.f32.e4m3.e4m3",
    ),
    "MX, 64 rows": ("mxfp8-e5m2:bf16", config(block_m=64), "m64n32k32.f32.e5m2.e5m2"),
    "MX, 128 rows in parts": (
        "mxfp8-e4m3:fp16",
        config(block_m=128, block_n=192, stages=3),
        "m64n32k32.f32.e4m3.e4m3",
    ),
}


@pytest.mark.parametrize("case", COMPILED)
def test_compiles_to_the_instructions_it_was_written_for(case: str) -> None:
    formats, one, instruction = COMPILED[case]
    ptx = check_compiled(gemm(f"gemm:4096x4096x4096:{formats}"), one)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in ptx
    assert "cp.async.bulk.tensor.2d.shared::cluster.global" in ptx
    for word in ("ld.shared::cluster.v4", "mapa.shared::cluster", "barrier.cluster.arrive"):
        assert (word in ptx) == (one.cluster > 1)
    stores = "st.global.v4.f32" if formats.endswith("fp32") else "st.global.v2.u32"
    assert stores in ptx
    assert not re.search(r"\b(atom|red)\.", ptx)


@pytest.mark.parametrize("m", [16, 64, 128])
def test_mx_products_are_multiplied_together_and_promoted_in_as_few_instructions(m: int) -> None:
    """The counts that the source tells, and products that do not wait for each other."""
    whole = options(gemm("gemm:4096x4096x4096:mxfp8-e4m3:bf16"), config(block_m=m))
    code = compile_cuda(SOURCE, whole).machine_code()
    counts = (Counter(x.split(".")[0] for x in loop) for loop in loops(code, holding_others=True))
    found = min((count for count in counts if count["QGMMA"]), key=Counter.total)
    parts = m // 32 if m > 32 else 1
    assert found["QGMMA"] == 4 * parts
    assert (found["FMUL"], found["FFMA"]) == (2 * m, 2 * m)
    assert found["LDS"] == m // 2 + 8
    assert found.total() <= 4.5 * m + 20 * parts + 70


def of_recipe(name: str, shape: str) -> Gemm:
    out = ("bf16", "fp16", "fp32")[RECIPES.index(name) % 3]
    return gemm(f"gemm:{shape}:{name}:{out}")


@cache
def sampled() -> dict[str, list[TileConfig]]:
    tables = {}
    for name in RECIPES:
        problems = [of_recipe(name, f"{m}x8192x8192") for m in (16, 256)]
        spaces = [FAMILY.legal_space(problem, H200).accepted for problem in problems]
        tables[name] = ConfigTable.of([one for space in spaces for one in space])
    return sample(tables, apart=["block_n"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_any_legal_configuration_compiles_without_spills(name: str) -> None:
    for one in sampled()[name]:
        assert isinstance(one, HopperSkinnyConfig)
        check_compiled(of_recipe(name, "256x8192x8192"), one)


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("gemm:16x4096x4096:deepseek-fp8:bf16"), config(stages=5, cluster=4)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", 160, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (5, 0)
    assert facts.smem_bytes == skinny_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_the_source_has_no_default_for_a_macro() -> None:
    whole = options(gemm("gemm:256x256x256:bf16:bf16"), config())
    for name, told in (("BLOCK_M", "WGMMA_N"), ("BLOCK_N", "BLOCK_N"), ("STAGES", "STAGES")):
        without = [option for option in whole if not option.startswith(f"-D{name}=")]
        with pytest.raises(OfflineCompileError, match=told):
            compile_cuda(SOURCE, without)


def test_descriptor_and_launcher_name_the_same_choices() -> None:
    assert BLOCK_M == gemm_hopper_skinny.BLOCK_M
    assert ACCUMULATORS == gemm_hopper_skinny.ACCUMULATORS
    assert CLUSTERS == gemm_hopper_skinny.CLUSTERS
    assert MX_BLOCK_M == gemm_hopper_skinny.MX_BLOCK_M
    assert MAX_STAGES == gemm_hopper_skinny.MAX_STAGES


@cache
def wide_table() -> ConfigTable:
    """The space, and beyond it values that the kernel does not have."""
    return ConfigTable.product(
        HopperSkinnyConfig,
        block_m=(4, 8, 16, 24, 64, 96, 128, 160, 176, 192, 256, 512),
        block_n=(32, 64, 96, 128, 192, 256, 320),
        stages=(1, 2, 3, 24, 25),
        cluster=(0, 1, 2, 3, 8, 16),
        interleaved=(False, True),
    )


def launcher_takes(problem: Gemm, one: HopperSkinnyConfig) -> bool:
    try:
        options(problem, one)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "deepseek-fp8", "int8-b128", "mxfp8-e4m3"])
def test_the_gate_and_the_launcher_agree_on_every_configuration(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    for table in (FAMILY.space(problem, H200), wide_table()):
        broken = np.zeros(len(table), dtype=bool)
        for rule in FAMILY.rules(problem, table, H200):
            for row in np.flatnonzero(rule.broken)[:3].tolist():
                assert rule.explain(row)
            if rule.name in HARD_RULES:
                broken |= rule.broken
        taken = np.array([launcher_takes(problem, one) for one in _configs(table)])
        differ = np.flatnonzero(taken == broken)
        assert len(differ) == 0, table.config(int(differ[0]))


def _configs(table: ConfigTable) -> Iterator[HopperSkinnyConfig]:
    for one in table:
        assert isinstance(one, HopperSkinnyConfig)
        yield one


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", ["1x64x32", "1x4096x4096", "16x8192x8192", "100x2112x7168",
                                   "128x7168x2048", "2048x3072x768", "8192x8192x8192"])  # fmt: skip
def test_every_legal_space_holds_the_default_and_fits(name: str, shape: str) -> None:
    problem = gemm(f"gemm:{shape}:{name}:bf16")
    legal = FAMILY.legal_space(problem, H200).accepted
    assert len(legal) >= (1 if shape == "1x64x32" else 5)
    assert (skinny_smem_bytes(problem, legal) <= H200.smem_bytes_per_cta).all()
    assert (legal["cluster"] <= skinny_steps(problem)).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert launcher_takes(problem, default)
    rejected = FAMILY.legal_space(problem, H200).rejected_by_rule
    assert sum(rejected.values()) + len(legal) == len(FAMILY.space(problem, H200))


def test_a_legal_tile_is_no_wider_than_the_rows_need() -> None:
    for m, widest in ((1, 8), (8, 8), (9, 16), (40, 48), (65, 96), (130, 176), (300, 256)):
        legal = FAMILY.legal_space(gemm(f"gemm:{m}x4096x4096:bf16:bf16"), H200).accepted
        assert legal["block_m"].max() == widest


def test_a_split_of_k_needs_a_step_for_every_cta() -> None:
    problem = gemm("gemm:16x4096x384:bf16:bf16")  # 6 steps
    legal = FAMILY.legal_space(problem, H200).accepted
    assert set(legal["cluster"]) == {1, 2, 4}
    rejected = [r for r in FAMILY.legal_space(problem, H200).rejected if r.rule == "split"]
    assert any("8 CTAs share 6 steps" in r.reason for r in rejected)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("gemm:64x64x64:jetfire:bf16", "no scale mode for int8.b32x32"),
        ("gemm:64x64x72:mxfp8-e4m3:bf16", "K: rows of 72 bytes"),
        ("gemm:64x64x64:mxint8:bf16", "multiplies two of one element of e4m3fn, e5m2, int8"),
        ("gemm:64x64x64:mxfp8-e4m3:e4m3fn.b32x32", "e4m3fn.b32x32"),
        ("gemm:64x64x80:mxfp8-e4m3:bf16", None),
        ("gemm:64x64x66:bf16:bf16", "K: rows of 132 bytes"),
        ("gemm:64x66x64:bf16:bf16", "N: rows of 132 bytes"),
        ("gemm:64x68x64:bf16:fp32", None),
        ("gemm:64x64x133152:int8-row:bf16", "K 133152 > 133144: the int32 accumulator"),
        ("quantize:64x64:int8.row:bf16", "hopper_skinny_gemm serves gemm problems"),
    ],
)
def test_refusals(problem: str, reason: str | None) -> None:
    found = FAMILY.refusal(parse_problem(problem), H200)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits = load_gpu(name).limits
    found = FAMILY.refusal(gemm("gemm:16x4096x4096:bf16:bf16"), limits)
    assert (found is None) == (limits.capability == 90), found
    if found is None:
        assert FAMILY.path(gemm("gemm:16x64x64:bf16:bf16"), limits) is NumericPath.NATIVE


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"b": array((128, 128), "uint8")}, ValueError, r"b has shape .*: it must be \(128, 256\)"),
        ({"c": array((64, 128), "uint16", pointer=4098)}, ValueError, "c: rows must be"),
        ({"a_scale": array((64, 2), "float32")}, ValueError, "its columns must be contiguous"),
        ({"scales": "none"}, ValueError, "a_scale is given: scales 'none' take none"),
        ({"element": "e3m4"}, ValueError, "element 'e3m4': choose one of bf16, fp16"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=24).to_dict()}, ValueError, "block_m = 24"),
        ({"config": config(block_n=96).to_dict()}, ValueError, "block_n = 96"),
        ({"config": config(block_m=176).to_dict()}, ValueError, "176 accumulators a thread"),
        (ROW | {"config": config(stages=25).to_dict()}, ValueError, "stages = 25"),
        (ROW | {"config": config(cluster=3).to_dict()}, ValueError, "cluster = 3"),
        (
            {"scales": "mx", "a_scale": array((64, 8), "float32")},
            TypeError,
            "a_scale has dtype float32: it must be uint8",
        ),
        (
            MX | {"b_scale": array((128, 2), "uint8")},
            ValueError,
            r"b_scale has shape \(128, 2\): it must be \(128, 8\)",
        ),
        (
            MX | {"b_scale": array((128, 8), "uint8", strides=(1, 128))},
            ValueError,
            r"b_scale has strides \(1, 128\): it must be row-major",
        ),
        (
            MX | {"config": config(block_n=256).to_dict()},
            ValueError,
            "block_m = 16, block_n = 256: MX scales take 128 by 64, 128 by 128, 128 by 192 at most",
        ),
        (
            {
                "scales": "b128x128",
                "a_scale": array((1, 2), "float32"),
                "config": config(block_m=48).to_dict(),
            },
            ValueError,
            "block_m = 48: 128x128 scales of A",
        ),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    good = GOOD | {"config": config().to_dict()}
    with pytest.raises(error, match=message):
        gemm_hopper_skinny.launch(**(good | change))
    with pytest.raises(error, match=message):
        gemm_hopper_skinny.precompile(**(good | change))


def test_tensor_maps_and_grid_follow_tiles_and_pitches(monkeypatch: pytest.MonkeyPatch) -> None:
    maps: list[tuple[Any, ...]] = []
    launches: list[tuple[Any, ...]] = []

    def tensor_map(*numbers: Any) -> str:
        maps.append(numbers)
        return f"map {len(maps)}"

    def kernel(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        launches.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(gemm_hopper_skinny, "tensor_map", tensor_map)
    monkeypatch.setattr(gemm_hopper_skinny, "compiled_kernel", lambda *key: kernel)
    fields = config(block_m=32, block_n=128, cluster=4).to_dict()
    apart: dict[str, Any] = {
        "a": array((70, 256), "uint8", strides=(512, 1), pointer=1 << 20),
        "b": array((300, 256), "uint8"),
        "c": array((70, 300), "uint16", strides=(1024, 2), pointer=1 << 21),
        "a_scale": array((70, 2), "float32", strides=(4, 8192), pointer=1 << 22),
        "b_scale": array((3, 2), "float32"),
        "config": fields,
    }
    gemm_hopper_skinny.launch(**(GOOD | apart))
    assert maps == [
        (1 << 20, 1, 256, 70, 512, (128, 32)),
        (apart["b"].data.ptr, 1, 256, 300, 256, (128, 128)),
        (1 << 22, 4, 70, 2, 8192, (32, 1)),
    ]
    ((grid, block, arguments, smem),) = launches
    # 3 x 3 tiles, 4 CTAs each; two warpgroups and a warp.
    assert (grid, block) == ((36,), (288,))
    assert arguments[:3] == ("map 1", "map 2", "map 3")
    b_scale = apart["b_scale"].data.ptr
    assert [int(x) for x in arguments[3:]] == [1 << 22, b_scale, 1 << 21, 1024, 70, 300, 256]
    assert smem == gemm_hopper_skinny.smem_bytes(scales="b1x128", config=fields)


def test_mx_scales_go_to_the_kernel_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[tuple[Any, ...]] = []

    def kernel(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        launches.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(gemm_hopper_skinny, "tensor_map", lambda *numbers: "map")
    monkeypatch.setattr(gemm_hopper_skinny, "compiled_kernel", lambda *key: kernel)
    given = GOOD | MX | {"config": config(block_m=64, stages=4).to_dict()}
    gemm_hopper_skinny.launch(**given)
    ((grid, block, arguments, smem),) = launches
    assert (grid, block) == ((2,), (160,))
    assert [int(x) for x in arguments[3:5]] == [MX[x].data.ptr for x in ("a_scale", "b_scale")]
    # Four stages: 128 rows of 128 bytes and of four floats; barriers.
    assert smem == 4 * 128 * (128 + 16) + 4 * 16
