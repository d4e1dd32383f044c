"""Which nasty operands a verification without a GPU leaves out, because the interpreter errs."""

import pytest

from tiles.recipes import recipe
from workbench.verification.gemm_judge import NASTY, misread
from workbench.verification.operands import Pattern


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
    assert {pattern for pattern in NASTY if misread(recipe(name), pattern)} == skipped
