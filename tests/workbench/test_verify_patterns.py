"""Which nasty operands a verification without a GPU leaves out, because the interpreter errs."""

import pytest

from tiles.recipes import recipe
from workbench.verification.gemm_judge import misread, nasty
from workbench.verification.operands import Pattern, draw_pair


@pytest.mark.parametrize(
    ("name", "skipped"),
    [
        ("bf16", {Pattern.SUBNORMAL}),
        ("fp8-ptq-e5m2", {Pattern.SUBNORMAL}),
        ("unit-scaling", {Pattern.NAN}),
        ("e4m3-row", set()),
        ("jetfire", set()),
    ],
)
def test_only_what_the_interpreter_misreads_is_left_out(name: str, skipped: set[Pattern]) -> None:
    assert {pattern for pattern in nasty(recipe(name)) if misread(recipe(name), pattern)} == skipped


@pytest.mark.parametrize("name", ["bf16", "fp16", "e5m2-row", "e5m2-b128", "fp8-ptq-e5m2"])
def test_formats_with_an_infinity_are_fed_one(name: str) -> None:
    assert Pattern.INF in nasty(recipe(name))
    for matrix in draw_pair((40, 48, 400), recipe(name), Pattern.INF, 1, "cpu"):
        assert int(matrix.values.isinf().sum()) == 1
        assert bool(matrix.values[:, -1].isinf().any())
        assert not bool(matrix.values.isnan().any())


@pytest.mark.parametrize("name", ["e4m3-row", "deepseek-fp8", "int8-row", "jetfire"])
def test_formats_without_an_infinity_are_not(name: str) -> None:
    assert Pattern.INF not in nasty(recipe(name))
