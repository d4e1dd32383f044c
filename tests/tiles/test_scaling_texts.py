"""Texts of scalings and tensor formats: read, written back, or refused with a reason.

4 256 tensor formats are read and written back and 2 800 refused.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from tiles.formats import (
    Rounding,
    ScaleRule,
    Scaling,
    TensorFormat,
    element,
    quantize,
    scale_element,
)
from tiles.recipes import recipe

E8M0_RULES = ("floor", "ceil", "rceil", "even")
BASES: dict[str, tuple[int | None, int | None]] = {
    "tensor": (None, None),
    "row": (1, None),
    "col": (None, 1),
    "b1x16": (1, 16),
    "b3x5": (3, 5),
    "b128x128": (128, 128),
    "b1x128": (1, 128),
}


def legal_scalings() -> list[tuple[str, Scaling]]:
    """Texts and what they mean, put together by hand."""
    found = []
    for base, stored, rule in product(
        BASES, ("", "fp16", "bf16", "e4m3fn"), ("", "pow2", "mse", "p99.9", "p50")
    ):
        text = "+".join(filter(None, [base, stored, rule]))
        percentile = float(rule[1:]) if rule in ("p99.9", "p50") else None
        chosen = ScaleRule.PERCENTILE if percentile else ScaleRule(rule or "absmax")
        facts = {"rows": BASES[base][0], "cols": BASES[base][1], "rule": chosen}
        stored_in = scale_element(stored or "fp32")
        found.append((text, Scaling(**facts, stored=stored_in, percentile=percentile)))
        if stored == "e4m3fn" and rule != "pow2":
            scaling = Scaling(**facts, stored=stored_in, percentile=percentile, two_level=True)
            found.append((f"{text}+two-level", scaling))
    for base, rule in product(BASES, E8M0_RULES):
        text = f"{base}+e8m0fnu" + ("" if rule == "floor" else f"+{rule}")
        scaling = Scaling(
            rows=BASES[base][0],
            cols=BASES[base][1],
            stored=scale_element("e8m0fnu"),
            rule=ScaleRule(rule),
        )
        found.append((text, scaling))
    return found


LEGAL = legal_scalings()


def test_every_legal_scaling_is_read_and_written() -> None:
    for text, scaling in LEGAL:
        assert Scaling.parse(text) == scaling, text
        assert Scaling.parse(str(scaling)) == scaling, text
    assert len({str(scaling) for _, scaling in LEGAL}) == len(LEGAL) == 196


def test_short_names_stand_for_long_ones() -> None:
    for short, long in (
        ("g128", "b1x128+fp16"),
        ("g32+fp32", "b1x32"),
        ("mx", "b1x32+e8m0fnu+floor"),
        ("mx+rceil", "b1x32+rceil+e8m0fnu"),
        ("mx+fp16+mse", "g32+mse"),
    ):
        assert Scaling.parse(short) == Scaling.parse(long)
        assert str(Scaling.parse(short)) == str(Scaling.parse(long))
    nvfp4 = TensorFormat.parse("nvfp4")
    assert nvfp4 == TensorFormat.parse("e2m1fn.b1x16+two-level+e4m3fn")
    assert TensorFormat.parse("nvfp4+mse+sr") == TensorFormat.parse(
        "e2m1fn.b1x16+e4m3fn+two-level+mse+sr"
    )
    assert (str(nvfp4), str(TensorFormat.parse("nvfp4+sr"))) == ("nvfp4", "nvfp4+sr")


def legal(name: str, scaling: Scaling) -> bool:
    """Which elements take which scalings, by the reasons of the conventions."""
    if name.startswith("posit"):
        return False
    if name.startswith("uint"):
        return scaling.rule is ScaleRule.ABSMAX and not scaling.two_level
    if name == "nf4" and scaling.stored.name == "e8m0fnu":
        return False
    return name == "e2m1fn" or not scaling.two_level


def test_overflow_is_written_behind_the_rounding() -> None:
    for text, canonical in (
        ("e4m3fn+nosat", "e4m3fn+nosat"),
        ("e5m2.row+nosat+sr", "e5m2.row+sr+nosat"),
        ("e4m3fn.mx+nosat+rceil", "e4m3fn.mx+rceil+nosat"),
    ):
        fmt = TensorFormat.parse(text)
        assert not fmt.saturate
        assert not fmt.plain
        assert str(fmt) == canonical
        assert TensorFormat.parse(canonical) == fmt


def test_every_tensor_format_is_read_and_written_or_refused() -> None:
    names = ["e4m3fn", "e2m1fn", "int8", "uint8", "uint4", "mxint8", "nf4", "posit8es1", "bf16"]
    roundings = {"": "rne", "+sr": "sr", "+rtz": "rtz", "+away": "away"}
    count = refused = 0
    for name, (text, scaling), suffix in product(names, LEGAL, roundings):
        full = f"{name}.{text}{suffix}"
        if not legal(name, scaling):
            with pytest.raises(ValueError, match=f"zero points|two levels|exponent|{name}"):
                TensorFormat.parse(full)
            refused += 1
            continue
        fmt = TensorFormat.parse(full)
        assert fmt.scaling == scaling
        assert fmt.element == element(name)
        assert fmt.rounding is Rounding(roundings[suffix])
        assert TensorFormat.parse(str(fmt)) == fmt
        count += 1
    for name in (*names, "e2m5fn", "ffp8_ue4m4"):
        for suffix in roundings:
            assert str(TensorFormat.parse(name + suffix)) == name + suffix
    assert (count, refused) == (4256, 2800)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int8.b0x4", "unknown scaling 'b0x4': write tensor, row, col, mx"),
        ("int8.b1x128x2", "unknown scaling 'b1x128x2'"),
        ("int8.g0", "unknown scaling 'g0'"),
        ("int8.", "unknown scaling ''"),
        ("int8.row+fp8", r"unknown detail 'fp8' of scaling 'row\+fp8'.*choose one of fp32"),
        ("int8.row+rceil", r"fp32 scales cannot follow the rule 'rceil': choose one of absmax"),
        ("int8.mx+mse", r"e8m0fnu scales cannot follow the rule 'mse': choose one of floor"),
        ("int8.mx+p99", "e8m0fnu scales cannot follow the rule 'p'"),
        ("int8.row+p49.9", "percentile 49.9: at least 50 and below 100"),
        ("int8.row+p100", "'p100'.*at least 50 and below 100, with at most 4 dec.*p<percentile>"),
        ("int8.row+stochastic", "unknown detail 'stochastic'.*did you mean 'sr'"),
        ("int8.row+rne", "nearest even code is never written: leave it out"),
        ("nvfp4.row", "nvfp4 has its blocks already, .*: write nvfp4, or e2m1fn.row"),
        ("e8m0fnu", "e8m0fnu stores scales alone, as in e4m3fn.mx or"),
        ("float8_e8m0fnu.row", "e8m0fnu stores scales alone"),
        ("float8", "did you mean 'e4m3fn'"),
        ("e4m3fn.tensr", "unknown scaling 'tensr': did you mean 'tensor'"),
        ("e4m3fn.MX", "unknown scaling 'MX': did you mean 'mx'"),
        (
            "e4m3fn.mx+rceill",
            r"unknown detail 'rceill' of scaling 'mx\+rceill': did you mean 'rceil'",
        ),
        ("e4m3fn.row+BF16", "unknown detail 'BF16'.*did you mean 'bf16'"),
        ("int8.row+rtzz", "unknown detail 'rtzz'.*did you mean 'rtz'"),
        ("E4M3", "did you mean 'e4m3'"),
        ("E4M3FN.row", "did you mean 'e4m3fn'"),
        ("fp8", "did you mean 'e4m3fn'"),
        ("mxfp8", "did you mean 'e4m3fn.mx'"),
        ("MXFP4-rceil", "did you mean 'e2m1fn.mx'"),
        ("NVFP4", "did you mean 'nvfp4'"),
        ("posit16", "did you mean 'posit16es2'"),
        ("nvfp4+bf16", "names a scale format twice"),
        ("int8.row+mse+pow2", r"scaling 'row\+mse\+pow2' names a rule twice: leave one out"),
        ("int8.row+p99+p98", "names a rule twice"),
        ("int8.row+fp16+bf16", "names a scale format twice"),
        ("e2m1fn.mx+nosat", "e2m1fn has no code for what lies beyond its range: it always satur"),
        ("posit8es1+nosat", "posit8es1 has no code for what lies beyond its range"),
        ("e4m3fn.row+mse+nosat", "the rule 'mse' counts on numbers that saturate"),
        ("e4m3fn+nosat+nosat", r"'e4m3fn\+nosat\+nosat' names nosat twice"),
        ("nvfp4+sr+rtz", "names two roundings: leave one out"),
        ("e2m1fn.b1x16+two-level", "two levels of scales are for e4m3fn block scales"),
        ("e2m1fn.b1x16+e4m3fn+two-level+two-level", "names a two-level twice"),
        ("e2m1fn.b1x16+e4m3fn+two-level+pow2", "make no powers of two: leave out pow2"),
        ("int4.b1x16+e4m3fn+two-level", "two levels of scales are for e2m1fn, not int4"),
        ("uint4.g128+mse", "uint4 has zero points, which go with absmax scales only"),
        ("uint4.mx", "uint4 has zero points"),
        ("uint9.row", "uint9 has zero points, which take a byte: use at most uint8, or int9"),
        ("nf4.mx", "nf4 has no exponent: it takes no E8M0 scales"),
        ("posit8es2.row", "posit8es2 is most precise near 1"),
        ("e9m9.row", r"unknown element format 'e9m9': choose one of .*e4m3fn"),
    ],
)
def test_texts_that_mean_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TensorFormat.parse(text)


def test_what_is_no_text_or_no_array_is_refused_by_name() -> None:
    readers: list[tuple[Callable[[Any], object], str]] = [
        (element, "an element format"),
        (scale_element, "a scale format"),
        (Scaling.parse, "a scaling"),
        (TensorFormat.parse, "a tensor format"),
        (recipe, "a recipe"),
    ]
    for read, what in readers:
        for value in (None, 8, ["e4m3fn"], b"e4m3fn"):
            with pytest.raises(TypeError, match=f"{what} is given by its name, a text, not as"):
                read(value)
    fmt: Any = TensorFormat.parse("int8.row")
    rows: Any = [[1.0]]
    with pytest.raises(TypeError, match="quantize takes a float32 array, got list"):
        quantize(rows, fmt)
    fmt = "e4m3fn.mx"
    with pytest.raises(TypeError, match=r"takes a TensorFormat, got 'e4m3fn\.mx': parse it first"):
        quantize(np.ones((1, 1), np.float32), fmt)


def test_records_that_no_text_spells_are_refused() -> None:
    for rows, cols in ((None, 5), (3, None)):
        with pytest.raises(ValueError, match="beside a whole extent comes 1"):
            Scaling(rows=rows, cols=cols)
    with pytest.raises(ValueError, match="scaling rows must be at least 1, got 0"):
        Scaling(rows=0, cols=1)
    with pytest.raises(ValueError, match="the percentile rule, and it alone, takes a percentile"):
        Scaling(rows=1, cols=None, percentile=99.0)
    with pytest.raises(ValueError, match=r"percentile 99.12345: at most 4 decimals"):
        Scaling(rows=1, cols=None, rule=ScaleRule.PERCENTILE, percentile=99.12345)
    with pytest.raises(ValueError, match="the rule 'absmax' has no percentile"):
        Scaling(rows=1, cols=None).rank(3)
