"""Weight-only products' decoding, scales, tails and split K, under Triton's interpreter."""

import pytest
from own_process import Outcomes, interpreted

pytest.importorskip("torch")
pytest.importorskip("triton")

SMALL = {
    "block_m": 16,
    "block_n": 32,
    "group_m": 2,
    "split_k": 1,
    "num_warps": 2,
    "num_stages": 2,
    "tma": False,
    "fold": False,
}


def _case(
    activation: str,
    weight: str,
    shape: tuple[int, int, int] = (9, 40, 330),
    out: str = "fp32",
    data: str = "normal",
    others: tuple[tuple[int, int], ...] = (),
    **config: int | bool,
) -> dict:
    return {
        "formats": [activation, weight],
        "shape": shape,
        "out": out,
        "seed": 3,
        "data": data,
        "others": others,
        "config": {**SMALL, **config},
    }


CASES = {
    # Ragged tiles, panels and groups in every extent.
    "int4 g128": _case("bf16", "int4.g128"),
    "int4 g128 folded": _case("bf16", "int4.g128", fold=True),
    "int4 g128 folded fp16": _case("fp16", "int4.g128", fold=True),
    "int4 g64": _case("fp16", "int4.g64"),
    "int4 g32": _case("bf16", "int4.g32", fold=True),
    "int4 g256": _case("bf16", "int4.g256", split_k=2),
    "int4 row": _case("bf16", "int4.row"),
    "uint4 g128": _case("bf16", "uint4.g128"),
    "uint4 g64": _case("fp16", "uint4.g64"),
    "uint4 g32": _case("bf16", "uint4.g32", fold=True),
    "int8 row": _case("bf16", "int8.row"),
    "int8 tensor": _case("fp16", "int8.tensor"),
    "int8 g64": _case("bf16", "int8.g64"),
    "int8 g128": _case("fp16", "int8.g128", fold=True),
    "e4m3fn row": _case("fp16", "e4m3fn.row"),
    "e4m3fn g128": _case("bf16", "e4m3fn.g128"),
    "e4m3fn 128x128": _case("bf16", "e4m3fn.b128x128"),
    "mxfp4": _case("bf16", "e2m1fn.mx", fold=True),
    "nvfp4": _case("bf16", "nvfp4", fold=True),
    "nvfp4 fp16": _case("fp16", "nvfp4", fold=True),
    "nvfp4 16x16": _case("bf16", "e2m1fn.b16x16+e4m3fn+two-level", fold=True),
    "split in 3": _case("bf16", "int4.g128", (9, 40, 597), split_k=3),
    # Shares of 2 panels: the last 3 of 8 begin behind the ninth.
    "empty shares g64": _case("fp16", "uint4.g64", (9, 24, 1142), split_k=8),
    "empty shares g256": _case("fp16", "int4.g256", (9, 24, 1142), split_k=8),
    "shared workspace": _case(
        "bf16", "int8.row", (9, 40, 130), others=((40, 16), (1, 33 * 16)), split_k=2, block_n=16
    ),
    "split, bf16 out": _case("bf16", "int8.row", out="bf16", split_k=5),
    "tma": _case("bf16", "uint4.g64", (9, 40, 328), tma=True),
    "tma split": _case("fp16", "int8.g64", (33, 70, 264), tma=True, split_k=2, block_m=32),
    "one row": _case("bf16", "int4.g128", (1, 40, 257), block_m=8),
    "one element": _case("bf16", "int8.row", (1, 1, 1), block_m=8),
    "nasty int4 g128": _case("bf16", "int4.g128", data="nasty"),
    "nasty uint4 g32": _case("bf16", "uint4.g32", data="nasty", fold=True),
    "nasty e4m3fn row": _case("bf16", "e4m3fn.row", data="nasty", split_k=2),
    "nasty mxfp4": _case("bf16", "e2m1fn.mx", data="nasty", fold=True),
    "nasty nvfp4": _case("bf16", "nvfp4", data="nasty", fold=True),
}


QUICK = (
    "int4 g128",
    "empty shares g64",
    "uint4 g32",
    "int8 row",
    "e4m3fn g128",
    "nvfp4 fp16",
    "split, bf16 out",
    "shared workspace",
    "tma",
    "one element",
    "nasty int4 g128",
)


OUTCOMES = Outcomes(CASES, QUICK, interpreted("interpreted_weight_only.py"))


@pytest.mark.parametrize("name", OUTCOMES.parameters())
def test_product_lies_within_its_bounds(name: str) -> None:
    assert OUTCOMES[name]["ok"], OUTCOMES[name]["reason"]


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["out"] == "fp32"))
def test_interpreted_product_is_as_good_as_fp32(name: str) -> None:
    # The bounds allow for what tensor cores drop; the interpreter drops nothing, so a scale that
    # is off, or a tail left out, cannot hide behind them here.
    assert OUTCOMES[name]["relative_rms"] < 1e-6


@pytest.mark.parametrize("name", OUTCOMES.parameters())
def test_second_launch_repeats_the_first(name: str) -> None:
    assert OUTCOMES[name]["repeats"]


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["data"] == "nasty"))
def test_nan_and_infinity_among_weights_spoil_their_output_columns_alone(name: str) -> None:
    assert OUTCOMES[name]["nan_columns"] == [4, 5]
