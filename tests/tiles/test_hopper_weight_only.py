"""Hopper's weight-only product without a GPU: compilation, legality, refusals, launches."""

import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from nvrtc_compile import compile_cuda, stages_given_up_unread
from wgmma_operands import overwritten_operands

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels import hopper_weight_only_rules as rules
from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.cuda import hopper_weight_operands as operands
from tiles.kernels.hopper_weight_only import HopperWeightOnly, HopperWeightOnlyConfig
from tiles.kernels.weight_only_resources import group_columns
from tiles.problems import Gemm, parse_problem
from tiles.recipes import Recipe

SOURCE = Path(launcher.__file__).with_suffix(".cu")
FAMILY = HopperWeightOnly()
H200 = load_gpu("h200").limits
#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"warpgroups", "tile shape", "warps", "registers", "counts", "cluster"}
PLAIN = {
    "block_m": 8, "block_n": 64, "warp_rows": 16, "warps_k": 4, "stages": 16, "per_sm": 0,
    "cluster": 1, "wgmma": False,
}  # fmt: skip


def config(**fields: int) -> HopperWeightOnlyConfig:
    return HopperWeightOnlyConfig.from_dict(PLAIN | fields)


def gemm(shape: str, weight: str, activation: str = "bf16", out: str = "bf16") -> Gemm:
    m, n, k = map(int, shape.split("x"))
    recipe = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    return Gemm(m=m, n=n, k=k, recipe=recipe, out=out)


def formats(problem: Gemm) -> dict[str, Any]:
    weight = problem.recipe.weight
    return {
        "weight": weight.element.name,
        "scale_format": rules.scale_format(weight),
        "group": group_columns(weight),
    }


def options(problem: Gemm, one: HopperWeightOnlyConfig) -> tuple[str, ...]:
    return launcher.options(
        element=problem.recipe.activation.element.name,
        out=problem.out,
        config=one.to_dict(),
        **formats(problem),
    )


COMPILED = {
    "decode": (gemm("1x28672x4096", "int4.g128"), config(block_n=224, warps_k=1, stages=12)),
    "32 rows": (
        gemm("32x4096x4096", "int4.g128", out="fp32"),
        config(block_m=32, warp_rows=32, stages=8, per_sm=1),
    ),
    "64 rows, fp16, zero points": (
        gemm("64x4096x4096", "uint4.g128", "fp16", "fp16"),
        config(block_m=64, warps_k=2, stages=8),
    ),
    "nvfp4": (gemm("8x4096x4096", "nvfp4"), config(warp_rows=32, per_sm=2, stages=8)),
    "int8": (gemm("8x4096x4096", "int8.row"), config()),
    "warpgroups, 32 rows": (
        gemm("32x8192x8192", "int4.g128"),
        config(block_m=32, block_n=128, warps_k=2, stages=8, cluster=2, wgmma=True),
    ),
    "warpgroups, 64 rows, zero points": (
        gemm("64x4096x4096", "uint4.g128", "fp16", "fp32"),
        config(block_m=64, block_n=112, warps_k=1, stages=4, wgmma=True),
    ),
    "warpgroups, int8": (
        gemm("8x4096x4096", "int8.row"),
        config(block_n=128, warps_k=2, wgmma=True),
    ),
    "K over four CTAs": (
        gemm("8x4096x14336", "int4.g128"),
        config(block_n=128, warp_rows=32, stages=16, cluster=4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiles_without_spills(case: str) -> None:
    problem, one = COMPILED[case]
    assert FAMILY.refusal(problem, H200) is None
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    assert "warning" not in found.log
    assert "Performance Loss" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    kind = "f16.f16" if problem.recipe.activation.element.name == "fp16" else "bf16.bf16"
    wanted = ["cp.async.bulk.shared::cluster.global", "cp.async.bulk.tensor.2d"]
    if one.wgmma:
        wanted.append(f"wgmma.mma_async.sync.aligned.m64n{one.block_m}k16.f32.{kind}")
        overwritten, products = overwritten_operands(found.machine_code())
        assert (overwritten, products > 0) == ([], True)
    else:
        wanted += ["ldmatrix", f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.f32"]
    for word in wanted:
        assert word in found.ptx
    assert not re.search(r"bytes smem", found.log)  # all of it is what the launcher asks for
    asked = launcher.smem_bytes(config=one.to_dict(), **formats(problem))
    assert asked == rules.weight_smem_bytes(problem, ConfigTable.of([one]))[0]
    # A loop over lanes at every copy is what the compiler makes of a lane that was not elected.
    assert "BRA.U.ANY" not in found.machine_code()
    if case == "decode":  # what its speed rests on: 11 instructions for eight codes
        code = found.machine_code()
        words = len(re.findall(r"\bHMMA\.16816\.F32\.BF16", code))  # one a lane and product
        assert words == 8  # of 128 columns
        assert len(re.findall(r"\bHFMA2\.BF16", code)) == 4 * words
        assert len(re.findall(r"\bPRMT\b", code)) <= 4 * words + 12


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("8x4096x4096", "int4.g128"), config(stages=8)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", 544, "mma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (8, 0)
    assert facts.smem_bytes == rules.weight_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


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


def launcher_takes(problem: Gemm, one: HopperWeightOnlyConfig) -> bool:
    try:
        options(problem, one)
    except ValueError:
        return False
    return True


def test_the_gate_and_the_launcher_agree_on_every_configuration() -> None:
    problem, table = gemm("8x4096x4096", "int4.g128"), wide_table()
    broken = np.zeros(len(table), dtype=bool)
    for rule in FAMILY.rules(problem, table, H200):
        for row in np.flatnonzero(rule.broken)[:3].tolist():
            assert rule.explain(row)
        if rule.name in HARD_RULES:
            broken |= rule.broken
    chosen = np.random.default_rng(0).choice(len(table), 2000, replace=False)
    held = np.flatnonzero(~broken)[:200]
    for row in (*chosen.tolist(), *held.tolist()):
        one = table.config(row)
        assert isinstance(one, HopperWeightOnlyConfig)
        assert launcher_takes(problem, one) == (not broken[row]), one


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
    assert launcher_takes(problem, default)


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


def good() -> dict[str, Any]:
    """Arguments of a launch: 5 rows by 96 x 392 int4 weights with groups of 128."""
    return {
        "x": array((5, 392), "uint16"),
        "codes": array((4, 96, 64), "uint8"),
        "c": array((5, 96), "uint16"),
        "scale": array((4, 96), "float16"),
        "row_scale": array((96,), "float32"),
        "element": "bf16",
        "out": "bf16",
        "weight": "int4",
        "scale_format": "fp16",
        "group": 128,
        "config": config().to_dict(),
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((5, 392))}, TypeError, "x is ndarray: it must be a CuPy array"),
        ({"x": array((5, 392), "float32")}, TypeError, "x has dtype float32"),
        ({"codes": array((3, 96, 64), "uint8")}, ValueError, r"codes has shape .* \(4, 96, 64\)"),
        ({"codes": array((4, 96, 64), "uint8", pointer=8)}, ValueError, "codes starts at 0x8"),
        ({"c": array((5, 80), "uint16")}, ValueError, r"c has shape .* it must be \(5, 96\)"),
        ({"c": array((5, 96), "uint16", strides=(8, 2))}, ValueError, "c: rows must be"),
        ({"scale": None}, ValueError, "scale is missing: int4 weights with groups of 128"),
        ({"scale": array((96, 4), "float16")}, ValueError, r"scale has shape .* \(4, 96\)"),
        ({"zero": array((4, 96), "uint8")}, ValueError, "zero is given: int4"),
        ({"weight": "uint4"}, ValueError, "zero is missing: uint4"),
        ({"weight": "int3"}, ValueError, "weight 'int3': choose one of int4"),
        ({"group": 48}, ValueError, "group = 48 of int4: a multiple of 128"),
        ({"scale_format": ""}, ValueError, "a format goes with groups"),
        ({"element": "fp16", "scale_format": "e8m0fnu"}, ValueError, "needs the range of bf16"),
        ({"row_scale": array((5,), "float32")}, ValueError, "row_scale has shape"),
        ({"config": {"block_m": 8}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=24).to_dict()}, ValueError, "block_m = 24"),
        ({"config": config(block_n=40).to_dict()}, ValueError, "block_n = 40: a multiple of"),
        ({"config": config(block_n=128).to_dict()}, ValueError, "32 warps multiply: 16 at most"),
        ({"config": config(stages=49).to_dict()}, ValueError, "stages = 49"),
        (
            {"config": config(stages=6).to_dict()},
            ValueError,
            "stages = 6: a multiple of warps_k = 4",
        ),
        ({"config": config(block_m=64, warp_rows=32).to_dict()}, ValueError, "64 sums a thread"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for call in (launcher.launch, launcher.precompile):
        with pytest.raises(error, match=message):
            call(**(good() | change))


def test_n_in_multiples_of_16() -> None:
    odd = {"codes": array((4, 88, 64), "uint8"), "c": array((5, 88), "uint16")}
    odd |= {"scale": array((4, 88), "float16"), "row_scale": array((88,), "float32")}
    with pytest.raises(ValueError, match="N = 88: rows of weights come in multiples of 16"):
        launcher.launch(**(good() | odd))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be launched on a GPU of 6 multiprocessors."""
    found: list[tuple[Any, ...]] = []

    def kernel(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        found.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(launcher, "tensor_map", lambda *numbers: numbers)
    monkeypatch.setattr(launcher, "multiprocessors", lambda device: 6)
    monkeypatch.setattr(launcher, "compiled_kernel", lambda *key: kernel)
    return found


def test_a_tile_a_cta_needs_no_workspace(launches: list[tuple[Any, ...]]) -> None:
    launcher.launch(**good())
    ((grid, block, arguments, smem),) = launches
    assert (grid, block) == ((2,), (544,))
    assert arguments[0][1:] == (2, 392, 5, 784, (64, 8))
    assert [int(x) for x in arguments[-4:]] == [5, 96, 4, 2]  # M, N, panels, CTAs
    assert smem == 16 * (64 * 64 + 2 * 8 * 128 + 128 + 16) + 4 * 8 * 68 * 4 + 16


def test_ctas_that_share_tiles_take_a_workspace(launches: list[tuple[Any, ...]]) -> None:
    fields = config(per_sm=1, block_n=32, warps_k=1).to_dict()
    words = launcher.workspace_words(5, 96, 4, fields, 6)
    assert words == 2**14 + 2 * 6 * 8 * 32
    shared = good() | {"config": fields}
    with pytest.raises(ValueError, match=f"workspace is missing: per_sm needs {words} int32"):
        launcher.launch(**shared)
    for wrong, error, message in (
        (array((words - 1,), "int32"), ValueError, f"{words} contiguous words or more"),
        (array((words,), "float32"), TypeError, "workspace has dtype float32"),
        (array((words,), "int32", pointer=shared["x"].data.ptr), ValueError, "overlaps"),
    ):
        with pytest.raises(error, match=message):
            launcher.launch(**shared, workspace=wrong)
    assert not launches
    workspace = array((words,), "int32")
    launcher.launch(**shared, workspace=workspace)
    ((grid, _, arguments, _),) = launches
    assert grid == (6,)
    assert int(arguments[6]) == workspace.data.ptr + 4 * 2**14
    assert int(arguments[7]) == workspace.data.ptr


def test_tiles_beyond_the_counters_are_refused() -> None:
    fields = config(per_sm=1, block_n=16, warps_k=1).to_dict()
    with pytest.raises(ValueError, match="a workspace counts 16384, take per_sm 0"):
        launcher.ctas(1, 16 * 16385, 4, fields, 132)
    assert launcher.ctas(1, 16 * 16385, 4, fields | {"per_sm": 0}, 132) == 16385
