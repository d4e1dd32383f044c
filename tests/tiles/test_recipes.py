"""Recipes: their formats, sources and texts, and what they refuse."""

import re
from dataclasses import replace

import pytest

from tiles.formats import Rounding, TensorFormat
from tiles.recipes import (
    RECIPES,
    OutlierBlocks,
    OutlierColumns,
    Recipe,
    WeightUpdate,
    recipe,
)


def formats(one: Recipe) -> dict[str, TensorFormat]:
    return {
        "activation": one.activation,
        "weight": one.weight,
        "gradient": one.gradient,
        "output": one.output,
        "residual": one.residual,
    }


@pytest.mark.parametrize("name", RECIPES)
def test_texts_of_a_recipe_read_back(name: str) -> None:
    one = RECIPES[name]
    assert (one.name, str(one), recipe(name)) == (name, name, one)
    for fmt in formats(one).values():
        assert TensorFormat.parse(str(fmt)) == fmt
    assert WeightUpdate.parse(str(one.update)) == one.update
    texts = {tensor: str(fmt) for tensor, fmt in formats(one).items()}
    first, second = map(str, one.moments)
    again = Recipe.of(
        name,
        **texts,
        update=str(one.update),
        weight_gradient=str(one.weight_gradient),
        moments=(first, second),
        outliers=one.outliers,
        source=one.source,
    )
    assert again == one


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_cites_something(name: str) -> None:
    source = RECIPES[name].source
    assert re.search(r"arXiv \d{4}\.\d{5}|TensorRT-LLM", source), source
    assert "\n" not in source


@pytest.mark.parametrize("name", RECIPES)
def test_noise_belongs_to_gradients_and_the_residual_stream_keeps_16_bits(name: str) -> None:
    one = RECIPES[name]
    for tensor, fmt in formats(one).items():
        stochastic = fmt.rounding is Rounding.STOCHASTIC
        assert not stochastic or tensor == "gradient", tensor
    assert one.residual.scaling is None
    assert one.residual.element.bits == 16
    if not one.trains:
        assert str(one.gradient) == "bf16"


#: activation, weight, gradient, output, residual, update
DEFINED = {
    "bf16": "bf16 bf16 bf16 bf16 bf16 fp32",
    "bf16-kahan": "bf16 bf16 bf16 bf16 bf16 bf16+kahan",
    "bf16-sr": "bf16 bf16 bf16 bf16 bf16 bf16+sr",
    "fp8-ptq-e4m3": "e4m3fn.tensor e4m3fn.row bf16 bf16 bf16 none",
    "fp8-ptq-e3m4": "e3m4fn.tensor e3m4fn.row bf16 bf16 bf16 none",
    "fp8-ptq-e5m2": "e5m2 e5m2 bf16 bf16 bf16 none",
    "fp8-ptq-mixed": "e4m3fn.tensor e3m4fn.row bf16 bf16 bf16 none",
    "fp8-lm": "e4m3fn.tensor e4m3fn.tensor e5m2.tensor bf16 bf16 fp16.tensor",
    "deepseek-fp8": "e4m3fn.b1x128 e4m3fn.b128x128 e4m3fn.b1x128 bf16 bf16 fp32",
    "unit-scaling": "e4m3fn e4m3fn e5m2 fp16 fp16 fp32",
    "posit8": "posit8es1 posit8es1 posit8es2 bf16 bf16 fp32",
    "int8-ptq": "int8.tensor int8.row bf16 bf16 bf16 none",
    "llm-int8": "int8.row int8.row bf16 fp16 fp16 none",
    "jetfire": "int8.b32x32 int8.b32x32 int8.b32x32+sr int8.b32x32 fp16 fp32",
    "jetfire-64": "int8.b64x64 int8.b64x64 int8.b64x64+sr int8.b64x64 fp16 fp32",
    "jetfire-fp16-scales": "int8.b32x32+fp16 int8.b32x32+fp16 int8.b32x32+fp16+sr "
    "int8.b32x32+fp16 fp16 fp32",
    "w4a16-g128": "bf16 int4.g128 bf16 bf16 bf16 none",
    "mxfp4-w-mxfp6-a": "e3m2fn.mx e2m1fn.mx e3m2fn.mx bf16 bf16 fp32",
    "nvfp4": "nvfp4 e2m1fn.b16x16+e4m3fn+two-level nvfp4+sr bf16 bf16 fp32",
}


@pytest.mark.parametrize("name", DEFINED)
def test_a_paper_s_recipe_is_what_the_paper_says(name: str) -> None:
    one = recipe(name)
    assert " ".join([*map(str, formats(one).values()), str(one.update)]) == DEFINED[name]


def test_only_two_recipes_keep_outliers_apart() -> None:
    kept = {name: one.outliers for name, one in RECIPES.items() if one.outliers is not None}
    assert list(kept) == ["llm-int8", "int8-fallback"]
    columns, blocks = kept.values()
    assert isinstance(columns, OutlierColumns)
    assert (columns.threshold, columns.kept.name) == (6.0, "fp16")
    assert isinstance(blocks, OutlierBlocks)
    assert str(columns) == "columns with |x| > 6 in fp16"
    assert str(blocks) == "20 % of the blocks, by amax, twice"


def test_what_a_recipe_is_derives_from_its_formats() -> None:
    plain, cast, row, weights = (recipe(n) for n in ("bf16", "fp8-ptq-e5m2", "int8-row", "w8a16"))
    assert [one.quantized for one in (plain, cast, row, weights)] == [False, False, True, False]
    assert [one.direct_cast for one in (plain, cast, row, weights)] == [False, True, False, False]
    assert [one.scaled for one in (plain, cast, row, weights)] == [False, False, True, True]
    assert [one.blockwise for one in (row, recipe("jetfire"))] == [False, True]
    assert [one.trains for one in (plain, cast)] == [True, False]


@pytest.mark.parametrize(
    ("text", "bits"), [("none", 0), ("fp32", 32), ("bf16+sr", 16), ("bf16+kahan", 32)]
)
def test_a_weight_update_counts_what_it_keeps(text: str, bits: int) -> None:
    update = WeightUpdate.parse(text)
    assert str(update) == text
    assert update.bits == bits


def test_impossible_updates_and_outliers_are_refused() -> None:
    with pytest.raises(ValueError, match="rounded to nearest"):
        WeightUpdate.parse("bf16+sr+kahan")
    with pytest.raises(ValueError, match="rounded to nearest"):
        replace(WeightUpdate.parse("none"), kahan=True)
    with pytest.raises(ValueError, match="unknown element format 'adam'"):
        WeightUpdate.parse("adam")
    with pytest.raises(ValueError, match="threshold 0: it must be positive"):
        OutlierColumns(threshold=0)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"outlier blocks {share}: above 0 and at most 1"):
            OutlierBlocks(share=share)
    with pytest.raises(ValueError, match="threshold nan"):
        OutlierColumns(threshold=float("nan"))


def test_the_optimiser_keeps_what_the_papers_keep() -> None:
    one = RECIPES["fp8-lm"]
    kept = (one.weight_gradient, one.update.master, *one.moments)
    # FP8-LM, section 2.2: gradients and first moments of a byte, the rest of two.
    assert [fmt.element.bits for fmt in kept if fmt] == [8, 16, 8, 16]
    for name in ("bf16", "e4m3-tensor", "mxfp8-e4m3"):
        assert str(RECIPES[name].weight_gradient) == "bf16"
        assert [str(fmt) for fmt in RECIPES[name].moments] == ["fp32", "fp32"]
    assert str(RECIPES["jetfire"].weight_gradient) == "fp16"
