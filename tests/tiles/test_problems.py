"""Problems and recipes: what is refused, and texts that read back."""

import pytest

from tiles.formats import TensorFormat
from tiles.problems import MAX_EXTENT, Gemm, Quantize, parse_problem, parse_shape
from tiles.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_gemm_text_round_trips(name: str) -> None:
    problem = Gemm(m=16, n=4096, k=128, recipe=recipe(name), out="fp32")
    assert parse_problem(str(problem)) == problem


def test_quantize_text_round_trips() -> None:
    problem = Quantize(rows=7, cols=300, target=TensorFormat.parse("int8.b32x32"), source="fp16")
    assert parse_problem(str(problem)) == problem


@pytest.mark.parametrize("extent", [0, -1, MAX_EXTENT + 1])
def test_impossible_extents_are_refused_by_name(extent: int) -> None:
    with pytest.raises(ValueError, match=f"K = {extent}: a dimension must lie in"):
        Gemm(m=1, n=1, k=extent, recipe=recipe("bf16"))


def test_a_tensor_beyond_any_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 562949953421312 bytes"):
        Gemm(m=MAX_EXTENT, n=1, k=MAX_EXTENT, recipe=recipe("bf16"))


def test_an_unknown_output_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="output format 'int8': choose one of bf16, fp16, fp32"):
        Gemm(m=1, n=1, k=1, recipe=recipe("bf16"), out="int8")


def test_quantize_needs_a_scaled_target() -> None:
    with pytest.raises(ValueError, match="has no scaling"):
        Quantize(rows=1, cols=1, target=TensorFormat.parse("bf16"))


@pytest.mark.parametrize(
    "text", ["4096", "4096x", "axbxc", "1x2x3x4", "1 x2x3", "-1x2x3", "9" * 99]
)
def test_malformed_shapes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write 3 integers joined by x"):
        parse_shape(text, 3)


@pytest.mark.parametrize("text", ["", "gemm", "gemm:1x1x1:bf16", "conv:1x1:bf16:bf16"])
def test_malformed_problem_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"problem .*: write gemm:MxNxK"):
        parse_problem(text)


def test_recipes_are_suggested_in_any_case_and_by_their_beginning() -> None:
    for text, meant in (
        ("JETFIRE", "jetfire"),
        ("mxfp8", "mxfp8-e4m3"),
        ("w4a16", "w4a16-g128"),
    ):
        with pytest.raises(ValueError, match=f"did you mean '{meant}"):
            recipe(text)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'jetfire'"):
        recipe("jetfir")


def test_compulsory_bytes_count_scales() -> None:
    problem = Gemm(m=256, n=128, k=256, recipe=recipe("deepseek-fp8"))
    operands = 256 * 256 + 128 * 256
    scales = 4 * (256 * 2 + 1 * 2)
    assert problem.min_bytes == operands + scales + 256 * 128 * 2
    assert problem.flops == 2 * 256 * 128 * 256
