"""Products with outliers apart: indexing, tails, counts that the device knows, interpreted."""

import pytest
from own_process import Outcomes, interpreted

pytest.importorskip("torch")
pytest.importorskip("triton")

SMALL = {
    "block_m": 32,
    "block_n": 64,
    "block_k": 32,
    "outlier_k": 32,
    "group_m": 2,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
}
FP16 = [6.0, "fp16"]
ROWS = ("int8.row", "int8.row")
B128 = ("int8.b128x128", "int8.b128x128")
B32 = ("int8.b32x64", "int8.b64x32")


def _case(
    outliers: list | float,
    formats: tuple[str, str],
    shape: tuple[int, int, int],
    *,
    out: str = "fp32",
    data: str = "normal",
    **config: int | bool,
) -> dict:
    return {
        "outliers": outliers,
        "formats": formats,
        "shape": shape,
        "out": out,
        "data": data,
        "config": {**SMALL, **config},
    }


CASES = {
    # A tail in every extent of tile and block; columns enough for several steps.
    "columns": _case([2.5, "fp16"], ROWS, (40, 70, 157), outlier_k=16),
    "columns by descriptors": _case(FP16, ROWS, (40, 72, 80), tma=True, out="fp16"),
    "columns in bf16": _case([6.0, "bf16"], ROWS, (70, 50, 157)),
    "columns of tensors": _case(FP16, ("int8.tensor", "int8.row"), (40, 50, 157)),
    "deep steps over columns": _case(FP16, ROWS, (33, 50, 157), outlier_k=64),
    "shallow steps over columns": _case([2.0, "fp16"], ROWS, (33, 50, 64), outlier_k=16),
    "few rows": _case(FP16, ROWS, (1, 70, 129), block_m=16, out="bf16"),
    "one element": _case(FP16, ROWS, (1, 1, 1), block_m=16, outlier_k=16),
    "no outlier column": _case(FP16, ROWS, (33, 50, 157), data="none"),
    "all columns": _case(FP16, ROWS, (33, 50, 60), data="all"),
    "more columns than memory": _case(FP16, ROWS, (9, 20, 157), data="crowded"),
    "nasty columns": _case(FP16, ROWS, (9, 11, 77), data="nasty"),
    "columns beside garbage": _case(FP16, ROWS, (33, 50, 157), data="garbage"),
    "columns that lie": _case(FP16, ROWS, (33, 50, 157), data="lying"),
    "columns of other operands": _case(FP16, ROWS, (33, 50, 157), data="again"),
    "blocks": _case(0.2, B128, (150, 140, 520), block_k=64, outlier_k=64),
    "whole blocks by descriptors": _case(
        0.2, B128, (256, 136, 512), block_n=128, block_k=128, outlier_k=128, tma=True, out="bf16"
    ),
    "blocks by descriptors": _case(0.5, B32, (40, 72, 80), tma=True),
    "blocks of several shapes": _case(0.3, B32, (70, 150, 157)),
    "parts beyond the last block": _case(
        0.5, ("int8.b16x128", "int8.b64x32"), (40, 70, 140), block_m=16
    ),
    # K is a multiple of block_k and not of a block's columns.
    "whole parts beyond the last block": _case(
        0.5, ("int8.b16x128", "int8.b64x32"), (40, 70, 160), block_m=16
    ),
    "every block": _case(1.0, B32, (70, 50, 157)),
    "one row of blocks": _case(0.2, B32, (1, 70, 300), block_m=16, out="fp16"),
    "one block": _case(0.2, B32, (1, 1, 1), block_m=16),
    "no block over the limit": _case(0.2, B32, (40, 50, 157), data="none"),
    "nasty blocks": _case(0.5, B32, (40, 11, 157), data="nasty"),
    "blocks beside garbage": _case(1.0, B32, (40, 50, 157), data="garbage, a zero block"),
    "blocks that lie": _case(0.5, B32, (70, 50, 157), data="lying", block_m=16),
    "blocks of other operands": _case(0.3, B32, (70, 50, 157), data="again"),
}  # fmt: skip

#: What runs by default.
QUICK = (
    "columns",
    "columns by descriptors",
    "no outlier column",
    "more columns than memory",
    "nasty columns",
    "columns that lie",
    "blocks by descriptors",
    "whole parts beyond the last block",
    "one row of blocks",
    "blocks that lie",
)


OUTCOMES = Outcomes(CASES, QUICK, interpreted("interpreted_outliers.py"))


@pytest.mark.parametrize("name", OUTCOMES.parameters())
def test_product_lies_within_its_bounds(name: str) -> None:
    assert OUTCOMES[name]["ok"], OUTCOMES[name]["reason"]


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["out"] == "fp32"))
def test_interpreted_product_is_as_good_as_fp32(name: str) -> None:
    # The bounds allow for what tensor cores drop; the interpreter drops nothing, so an outlier that
    # is left out cannot hide behind them here.
    assert OUTCOMES[name]["relative_rms"] < 1e-6


def test_more_columns_than_memory_make_every_element_nan() -> None:
    assert OUTCOMES["more columns than memory"]["nan_rows"] == list(range(9))


def test_nan_spoils_its_row_alone() -> None:
    # An infinity makes its column one of 16 bits, where infinities go on as such.
    assert OUTCOMES["nasty columns"]["nan_rows"] == [4]


@pytest.mark.slow
def test_nan_and_infinity_spoil_the_rows_of_their_block() -> None:
    assert OUTCOMES["nasty blocks"]["nan_rows"] == list(range(32))
