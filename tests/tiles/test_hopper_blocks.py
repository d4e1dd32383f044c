"""The Hopper GEMM with scales in blocks: its space and legality, its launcher's refusals."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cupy_arrays
import numpy as np
import pytest

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, ConfigTable, NumericPath
from tiles.kernels.cuda import gemm_hopper_blocks, hopper_grid
from tiles.kernels.hopper_block_gemm import (
    CODED_OUTPUTS,
    PLAIN_OUTPUTS,
    HopperBlockGemm,
    HopperBlockGemmConfig,
)
from tiles.kernels.hopper_block_rules import SCALES, block_scales, consumer_tile
from tiles.problems import Gemm, parse_problem
from tiles.recipes import Recipe, recipe

FAMILY = HopperBlockGemm()
H200 = load_gpu("h200").limits
SERVED = (
    *("jetfire", "jetfire-64", "jetfire-128", "int8-b128", "e4m3-b128", "e4m3-b1x128"),
    *("mxfp8-e4m3", "mxfp8-e5m2", "mxint8"),
)
HARD_RULES = {"tile shape", "counts", "parts", "spread", "run"}


def gemm(text: str) -> Gemm:
    problem = parse_problem(text)
    assert isinstance(problem, Gemm)
    return problem


def config(**fields: int) -> HopperBlockGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
    return HopperBlockGemmConfig.from_dict(plain | fields)


def test_descriptor_and_launcher_have_the_same_scales_and_outputs() -> None:
    assert SCALES == gemm_hopper_blocks.SCALES
    assert (*PLAIN_OUTPUTS, *CODED_OUTPUTS) == tuple(gemm_hopper_blocks.OUTPUTS)


@pytest.mark.parametrize("out", gemm_hopper_blocks.OUTPUTS)
@pytest.mark.parametrize("name", SERVED)
def test_every_recipe_and_output_is_served(name: str, out: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:{out}")
    assert FAMILY.refusal(problem, H200) is None
    assert FAMILY.path(problem, H200) is NumericPath.NATIVE
    assert str(parse_problem(str(problem))) == str(problem)


@pytest.mark.parametrize("gpu", gpu_names())
def test_only_hopper_is_served(gpu: str) -> None:
    limits = load_gpu(gpu).limits
    found = FAMILY.refusal(gemm("gemm:64x64x64:jetfire:bf16"), limits)
    assert (found is None) == (limits.capability == 90), found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gemm:64x64x64:bf16:bf16", "multiplies two of one element of e4m3fn"),
        ("gemm:64x64x128:deepseek-fp8:bf16", "takes scales of one shape of b32x32"),
        ("gemm:64x64x64:int8-row:bf16", "takes scales of one shape"),
        ("gemm:64x64x64:jetfire-fp16-scales:bf16", "takes scales of one shape"),
        ("gemm:64x64x64:int8-fallback:bf16", "no second product for outliers"),
        ("gemm:64x64x64:jetfire:int8.b16x16", "writes bf16, fp16, fp32, int8.b32x32"),
        ("gemm:64x64x64:jetfire:e4m3fn.b32x32+sr", "writes bf16, fp16, fp32, int8.b32x32"),
        ("gemm:64x64x40:jetfire:bf16", "K: rows of 40 bytes"),
        ("gemm:64x24x64:jetfire:int8.b32x32", "N: rows of 24 bytes"),
        ("gemm:64x12x64:jetfire:bf16", "N: rows of 24 bytes"),
        ("quantize:64x64:int8.b32x32:bf16", "serves gemm problems"),
    ],
)
def test_what_it_does_not_compute_is_refused_with_the_reason(text: str, reason: str) -> None:
    found = FAMILY.refusal(parse_problem(text), H200)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("fields", [{"block_n": 64}, {"consumers": 4}], ids=str)
def test_a_block_of_codes_higher_than_a_consumer_is_the_tile_of_two(fields: dict[str, int]) -> None:
    one = config(**fields)
    for name, side in (("jetfire", 128), ("jetfire", 64)):
        problem = gemm(f"gemm:4096x4096x4096:{name}:int8.b{side}x{side}")
        verdict = FAMILY.judge(problem, one, H200)
        assert getattr(verdict, "rule", None) == ("shared block" if side == 128 else None)
    given = {"element": "int8", "scales": "b32x32", "config": one.to_dict()}
    gemm_hopper_blocks.options(out="int8.b64x64", **given)
    with pytest.raises(ValueError, match="64 rows is the tile of two consumers, 128x128"):
        gemm_hopper_blocks.options(out="int8.b128x128", **given)


def test_unlike_scales_have_no_name() -> None:
    pair = Recipe.of("x", activation="int8.b1x32", weight="int8.b32x32", source="test")
    assert block_scales(pair.activation, pair.weight) is None
    same = Recipe.of("x", activation="e4m3fn.mx+rceil", weight="e4m3fn.b1x32", source="test")
    assert block_scales(same.activation, same.weight) == "b1x32"


SHAPES = ((1, 16, 16), (17, 48, 144), (128, 128, 128), (300, 512, 4096), (8192, 1024, 65536))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("shape", SHAPES)
def test_default_is_legal_and_the_space_is_not_empty(
    name: str, shape: tuple[int, int, int]
) -> None:
    m, n, k = shape
    for gpu in ("h200", "h100"):
        limits = load_gpu(gpu).limits
        problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out="int8.b32x32")
        assert isinstance(FAMILY.judge(problem, FAMILY.default(problem, limits), limits), Accepted)
        space = FAMILY.legal_space(problem, limits)
        assert len(space.accepted)
        for rejected in space.rejected:
            assert rejected.reason
            break


def test_tall_tiles_are_for_scales_of_rows() -> None:
    tall = config(block_m=256, block_n=64)
    for name in SERVED:
        problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
        of_rows = name in ("e4m3-b1x128", "mxfp8-e4m3", "mxfp8-e5m2", "mxint8")
        assert isinstance(FAMILY.judge(problem, tall, H200), Accepted) == of_rows
        of_four = isinstance(FAMILY.judge(problem, replace(tall, consumers=4), H200), Accepted)
        assert of_four == (of_rows and name != "e4m3-b1x128")


def test_consumers_stand_below_each_other_as_far_as_64_rows_reach() -> None:
    shapes = {
        (128, 64, 2): (64, 64),
        (128, 128, 2): (64, 128),
        (256, 64, 2): (128, 64),
        (128, 128, 4): (64, 64),
        (256, 64, 4): (64, 64),
    }
    for (m, n, consumers), wanted in shapes.items():
        one = config(block_m=m, block_n=n, consumers=consumers)
        rows, columns = consumer_tile(ConfigTable.of([one]))
        assert (rows[0], columns[0]) == wanted
        assert gemm_hopper_blocks._columns(one.to_dict()) == columns[0]
        assert gemm_hopper_blocks.threads(one.to_dict()) == 128 * (1 + consumers)


@pytest.mark.parametrize("name", ["jetfire", "jetfire-64", "mxfp8-e4m3", "e4m3-b128"])
def test_the_gate_and_the_launcher_agree_on_every_configuration(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    table = ConfigTable.product(
        HopperBlockGemmConfig,
        block_m=(64, 128, 256),
        block_n=(64, 128),
        stages=(1, 2, 8),
        cluster=(1, 3),
        group_m=(1,),
        store_buffers=(1, 3),
        consumers=(1, 2, 4),
        sets=(0, 1, 2),
        parts=(1, 2, 3),
        spread=(False, True),
        run=(1, 2, 4, 8),
    )
    broken = np.zeros(len(table), dtype=bool)
    for rule in FAMILY.rules(problem, table, H200):
        if rule.name in HARD_RULES:
            broken |= rule.broken
            for row in np.flatnonzero(rule.broken)[:1]:
                assert rule.explain(int(row))
    scales = block_scales(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    element = problem.recipe.activation.element.name
    for row, one in enumerate(table):
        try:
            gemm_hopper_blocks.options(
                element=element, out="bf16", scales=scales, config=one.to_dict()
            )
            taken = True
        except ValueError:
            taken = False
        assert taken != broken[row], one


def array(shape: tuple[int, ...], dtype: str, megabyte: int, **rest: Any) -> Any:
    """An array that starts so many MiB into memory."""
    return cupy_arrays.array(shape, dtype, pointer=megabyte << 20, **rest)


GOOD: dict[str, Any] = {
    "a": array((64, 256), "int8", 1),
    "b": array((128, 256), "int8", 2),
    "c": array((64, 128), "int8", 3),
    "a_scale": array((2, 8), "float32", 4),
    "b_scale": array((4, 8), "float32", 5),
    "c_scale": array((2, 4), "float32", 6),
    "element": "int8",
    "out": "int8.b32x32",
    "scales": "b32x32",
    "config": config().to_dict(),
}
MX: dict[str, Any] = {
    "a": array((300, 256), "uint8", 1, strides=(512, 1)),
    "b": array((128, 256), "uint8", 2),
    "c": array((300, 128), "uint16", 3),
    "a_scale": array((300, 8), "float32", 4, strides=(4, 2048)),
    "b_scale": array((128, 8), "float32", 5, strides=(4, 512)),
    "c_scale": None,
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "b1x32",
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"a": array((64, 256, 1), "int8", 1)}, ValueError, "a has 3 dimensions"),
        ({"a": array((64, 256), "uint8", 1)}, TypeError, "a has dtype uint8: it must be int8"),
        ({"b": array((128, 128), "int8", 2)}, ValueError, r"b has shape .*must be \(128, 256\)"),
        ({"c": array((64, 128), "uint8", 3)}, TypeError, "c has dtype uint8: it must be int8"),
        ({"a": array((64, 256), "int8", 1, strides=(264, 1))}, ValueError, "a: rows must be"),
        ({"b": array((128, 256), "int8", 2, strides=(1, 128))}, ValueError, "b: rows must be"),
        ({"a_scale": None}, TypeError, "a_scale is NoneType"),
        ({"a_scale": array((2, 8), "float32", 4, strides=(4, 8))}, ValueError, "be row-major"),
        ({"a_scale": array((64, 8), "float32", 4)}, ValueError, r"a_scale has shape \(64, 8\)"),
        ({"c_scale": None}, TypeError, "c_scale is NoneType"),
        ({"c_scale": array((1, 4), "float32", 6)}, ValueError, r"c_scale has shape \(1, 4\)"),
        ({"out": "bf16", "c": array((64, 128), "uint16", 3)}, ValueError, "c_scale is given"),
        ({"out": "int8"}, ValueError, "out 'int8': choose one of bf16"),
        ({"scales": "mx"}, ValueError, "scales 'mx': choose one of b32x32"),
        ({"element": "bf16"}, ValueError, "element 'bf16': choose one of e4m3fn"),
        (
            {"c": array((64, 128), "int8", 1)},
            ValueError,
            "c overlaps a: what is written needs memory",
        ),
        ({"c_scale": array((2, 4), "float32", 3)}, ValueError, "overlaps c"),
        ({"b_scale": array((4, 8), "float32", 5, device=1)}, ValueError, "must share one"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=256, block_n=64).to_dict()}, ValueError, "tile 256x64"),
        ({"config": config(stages=9).to_dict()}, ValueError, "stages = 9"),
        ({"config": config(sets=3).to_dict()}, ValueError, "sets = 3"),
        ({"config": config(run=3).to_dict()}, ValueError, "run = 3: it is 1, 4 or 8"),
        ({"config": config(run=8, stages=2).to_dict()}, ValueError, "take 3 stages"),
        ({"config": config(run=8, sets=1).to_dict()}, ValueError, "and several pieces"),
        ({"config": config(consumers=3).to_dict()}, ValueError, "consumers = 3"),
        ({"config": config(consumers=4, block_n=64).to_dict()}, ValueError, "4 consumers it is"),
        (
            MX | {"a_scale": array((300, 8), "float32", 4)},
            ValueError,
            "its columns must be contiguous",
        ),
        (
            MX | {"a_scale": array((300, 8), "float32", 4, strides=(4, 1204))},
            ValueError,
            "a multiple of 16 bytes apart",
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
    with pytest.raises(error, match=message):
        gemm_hopper_blocks.launch(**(GOOD | change))
    with pytest.raises(error, match=message):
        gemm_hopper_blocks.precompile(**(GOOD | change))


def test_a_seed_has_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="a 64-bit unsigned integer"):
            gemm_hopper_blocks.launch(**GOOD, seed=seed)


@pytest.mark.parametrize("change", [{}, MX], ids=["blocks", "rows"])
def test_good_operands_get_as_far_as_cupy(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"cupy is missing: pip install 'tile-workbench\[cuda\]'"):
        gemm_hopper_blocks.launch(**(GOOD | change))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """Tensor maps that are made, and launches that happen."""
    maps: list[Any] = []
    launches: list[Any] = []

    def tensor_map(*numbers: Any) -> str:
        maps.append(numbers)
        return f"map {len(maps)}"

    def kernel(grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        launches.append((grid, block, arguments, shared_mem))

    monkeypatch.setattr(gemm_hopper_blocks, "tensor_map", tensor_map)
    monkeypatch.setattr(gemm_hopper_blocks, "compiled_kernel", lambda *key: kernel)
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    return maps, launches


def test_scales_of_rows_go_by_tensor_maps(launched: tuple[list[Any], list[Any]]) -> None:
    maps, launches = launched
    gemm_hopper_blocks.launch(**(GOOD | MX | {"config": config(cluster=2).to_dict()}))
    assert maps == [
        (1 << 20, 1, 256, 300, 512, (128, 128)),
        (2 << 20, 1, 256, 128, 256, (128, 64)),
        # Four units of K a stage; no element behind the last row is read.
        (4 << 20, 4, 300, 8, 2048, (128, 4)),
        (5 << 20, 4, 128, 8, 512, (128, 4)),
        (3 << 20, 2, 128, 300, 256, (64, 64)),
    ]
    ((grid, block, arguments, smem),) = launches
    # Three rows of tiles make two clusters of two; there is one column of tiles.
    assert (grid, block) == ((4,), (384,))
    assert arguments[:5] == ("map 1", "map 2", "map 3", "map 4", "map 5")
    assert [int(x) for x in arguments[5:]] == [4 << 20, 5 << 20, 300, 128, 256]
    assert smem == gemm_hopper_blocks.smem_bytes(scales="b1x32", config=config().to_dict())


def test_codes_take_their_scales_and_the_keys(launched: tuple[list[Any], list[Any]]) -> None:
    maps, launches = launched
    gemm_hopper_blocks.launch(**GOOD, seed=(7 << 32) + 5)
    # Codes are stored 128 columns at a time; scales of blocks need no map.
    assert maps[-1] == (3 << 20, 1, 128, 64, 128, (128, 64))
    assert len(maps) == 3
    ((_, _, arguments, _),) = launches
    assert int(arguments[-2]) == 6 << 20
    words = arguments[-1]["words"]
    assert words[:4].tolist() == [5, 7, 5 + 0x9E3779B9, 7 + 0xBB67AE85]
    assert words[18] == (5 + 9 * 0x9E3779B9) % 2**32
    # A consumer stores what it has.
    for fields in ({"block_n": 64}, {"consumers": 4}):
        narrow = GOOD | {"config": config(**fields).to_dict()}
        gemm_hopper_blocks.launch(**narrow)
        assert maps[-1][-1] == (64, 64)
    assert [block for _, block, _, _ in launches] == [(384,), (384,), (640,)]


def test_problems_with_codes_count_their_scales() -> None:
    problem = gemm("gemm:64x96x128:jetfire:int8.b32x32")
    plain = replace(problem, out="bf16")
    assert problem.min_bytes - plain.min_bytes == 64 * 96 * (1 - 2) + 2 * 3 * 4
    assert problem.with_tokens(32).shape == (32, 96, 128)
    assert problem.with_tokens(32).formats == ("jetfire", "int8.b32x32")
    assert (problem.baseline_out, plain.baseline_out) == ("bf16", "bf16")
    with pytest.raises(ValueError, match="unknown scaling"):
        replace(problem, out="int8.b32")
    with pytest.raises(ValueError, match=r"write e4m3fn\.mx"):
        replace(problem, out="e4m3fn.b1x32+e8m0fnu")
