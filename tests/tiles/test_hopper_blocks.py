"""The Hopper GEMM with scales in blocks: its space and its legality."""

from dataclasses import replace

import pytest
from hopper_blocks_cases import config
from hopper_gemm_cases import gemm
from launcher_gate import broken_rows

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, ConfigTable, NumericPath
from tiles.kernels.cuda import gemm_hopper_blocks
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
    broken = broken_rows(FAMILY, problem, table, H200, HARD_RULES)
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
