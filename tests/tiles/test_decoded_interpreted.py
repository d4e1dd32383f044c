"""Decoded products' elements, scales and tails, under Triton's interpreter."""

import pytest
from own_process import Outcomes, interpreted

pytest.importorskip("torch")
pytest.importorskip("triton")

SMALL = {
    "block_m": 64,
    "block_n": 32,
    "block_k": 64,
    "group_m": 2,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
    "persistent": False,
    "staged": False,
    "native": False,
}
TWO_LEVEL_16 = "e2m1fn.b16x16+e4m3fn+two-level"
#: Activations and weights; every recipe that no other family serves is among them.
PAIRS = {
    "e3m4fn": ("e3m4fn.tensor", "e3m4fn.row"),
    "e4m3fn by e3m4fn": ("e4m3fn.tensor", "e3m4fn.row"),
    "ffp8": ("ffp8_e4m3.tensor+pow2", "ffp8_e3m4.tensor+pow2"),
    "posit8": ("posit8es1", "posit8es1"),
    "mxfp8 e4m3fn": ("e4m3fn.mx", "e4m3fn.mx"),
    "mxfp8 e5m2": ("e5m2.mx", "e5m2.mx"),
    "mxfp6 e3m2fn": ("e3m2fn.mx", "e3m2fn.mx"),
    "mxfp6 e2m3fn": ("e2m3fn.mx", "e2m3fn.mx"),
    "mxfp4": ("e2m1fn.mx", "e2m1fn.mx"),
    "mxint8": ("mxint8.mx", "mxint8.mx"),
    "mxfp6 by mxfp4": ("e3m2fn.mx", "e2m1fn.mx"),
    "nvfp4": ("nvfp4", TWO_LEVEL_16),
    "uint8": ("uint8.row", "uint8.tensor"),
    "uint4 by int4": ("uint4.row", "int4.row"),
    "posit8es0 by posit8es2": ("posit8es0", "posit8es2"),
    "e8m0 scales of 128x128": ("e4m3fn.b1x128+e8m0fnu", "e4m3fn.b128x128+e8m0fnu"),
    "bf16 by int8": ("bf16", "int8.row"),
    "fp16 by nvfp4": ("fp16", "nvfp4"),
}


def _case(
    formats: tuple[str, str],
    shape: tuple[int, int, int],
    *,
    out: str = "fp32",
    data: str = "normal",
    again: bool = False,
    **config: int | bool,
) -> dict:
    return {
        "formats": list(formats),
        "shape": shape,
        "out": out,
        "seed": 3,
        "data": data,
        "again": again,
        "config": {**SMALL, **config},
    }


def _cases() -> dict[str, dict]:
    cases = {}
    for name, pair in PAIRS.items():
        # A tail in every extent of tile, scale block and word of codes.
        cases[name] = _case(pair, (37, 33, 157))
        cases[f"{name} staged"] = _case(pair, (37, 33, 157), staged=True)
    cases["tiles in groups"] = _case(
        PAIRS["mxfp8 e4m3fn"], (70, 50, 96), block_m=16, block_n=16, again=True
    )
    cases["whole words"] = _case(PAIRS["mxfp6 by mxfp4"], (40, 33, 160), out="bf16")
    cases["staged by descriptors"] = _case(
        PAIRS["nvfp4"], (70, 72, 157), staged=True, tma=True, persistent=True, again=True
    )
    cases["fp32 blocks staged"] = _case(
        ("e3m4fn.b1x128", "e3m4fn.b128x128"), (37, 50, 300), staged=True
    )
    cases["block of K in a deep tile"] = _case(PAIRS["nvfp4"], (17, 19, 200), block_k=128)
    cases["one element"] = _case(PAIRS["mxfp4"], (1, 1, 1), block_m=16, block_n=16)
    for name in ("e4m3fn.mx", "e2m1fn.mx", "nvfp4", "mxint8.mx"):
        for staged in (False, True):
            cases[f"nasty {name}{' staged' if staged else ''}"] = _case(
                (name, name), (9, 11, 77), data="nasty", staged=staged
            )
    for staged in (False, True):
        # 2^31 bytes and more from the first scale of a row to the third.
        cases[f"scales far apart{' staged' if staged else ''}"] = _case(
            PAIRS["mxfp8 e4m3fn"], (17, 19, 70), data="far", staged=staged
        )
    cases["nasty e3m4fn rows"] = _case(("e3m4fn.row", "e3m4fn.row"), (9, 11, 77), data="nasty")
    cases["nasty posit8"] = _case(PAIRS["posit8"], (9, 11, 77), data="nasty")
    cases["nasty uint8"] = _case(("uint8.row", "uint8.row"), (9, 11, 77), data="nasty")
    for name in (
        "e3m4fn", "e3m4", "e4m3fnuz", "ffp8_e3m4", "posit8es0", "posit8es1", "posit8es2", "int8",
        "e3m2fn", "e2m3fn", "e2m1fn", "int4", "posit6es1", "e5m2",
    ):  # fmt: skip
        # By an identity matrix every code comes out as the number that it stands for.
        cases[f"codes {name}"] = _case(
            ("posit8es0", name), (256, 8, 256), data="codes", block_m=256, block_n=16, block_k=256
        )
    return cases


CASES = _cases()


#: What runs by default; the others take half a minute.
QUICK = (
    "e4m3fn by e3m4fn",
    "posit8",
    "mxfp6 by mxfp4",
    "nvfp4 staged",
    "uint8",
    "nasty e4m3fn.mx",
    "whole words",
    "scales far apart",
)


OUTCOMES = Outcomes(CASES, QUICK, interpreted("interpreted_decoded.py"))


@pytest.mark.parametrize("name", OUTCOMES.parameters())
def test_product_lies_within_its_bounds(name: str) -> None:
    assert OUTCOMES[name]["ok"], OUTCOMES[name]["reason"]


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["out"] == "fp32"))
def test_interpreted_product_is_as_good_as_fp32(name: str) -> None:
    # The bounds allow for what tensor cores drop; the interpreter drops nothing, so a scale that
    # is off, or a tail left out, cannot hide behind them here.
    assert OUTCOMES[name]["relative_rms"] < 1e-6


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["data"] == "codes"))
def test_every_code_decodes_exactly(name: str) -> None:
    assert OUTCOMES[name]["relative_rms"] == 0


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["again"]))
def test_second_launch_repeats_the_first(name: str) -> None:
    assert OUTCOMES[name]["repeats"]


@pytest.mark.parametrize(
    "name",
    OUTCOMES.parameters(lambda case: case["data"] == "nasty" and case is not CASES["nasty posit8"]),
)
def test_nan_and_infinity_spoil_their_rows_and_columns_alone(name: str) -> None:
    assert OUTCOMES[name]["nan_rows"] == [4, 5]
    assert OUTCOMES[name]["nan_columns"] == [4, 5]
