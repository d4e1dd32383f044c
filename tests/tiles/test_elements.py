"""Every code of every element format, against other libraries and against exact rationals.

All formats of up to 16 bits are gone through code by code: 290 800 codes of 54 formats, tf32's
524 288 and posits of other sizes aside (the number is asserted at the end).
"""

import statistics

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
from exact_elements import FLOATS, POSITS, WIDE_FLOATS, all_exact, exact_float, posit_value
from format_twins import ML_DTYPES, TORCH, gfloat_twin

from tiles.formats import (
    ELEMENTS,
    SCALE_ELEMENTS,
    CodebookElement,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
    code_dtype,
    decode,
    element,
    encode,
    scale_element,
)
from tiles.formats.grid import code_values

EXACT = all_exact()
#: OCP OFP8 v1.0 and MX v1.0 tables; arXiv 2206.02915; arXiv 2309.14592; ml_dtypes' README.
#: Largest, smallest normal, smallest subnormal, distance from 1 to the next.
LIMITS = {
    "e5m2": (57344, 2**-14, 2**-16, 0.25),
    "e4m3fn": (448, 2**-6, 2**-9, 0.125),
    "e4m3": (240, 2**-6, 2**-9, 0.125),
    "e4m3fnuz": (240, 2**-7, 2**-10, 0.125),
    "e5m2fnuz": (57344, 2**-15, 2**-17, 0.25),
    "e4m3b11fnuz": (30, 2**-10, 2**-13, 0.125),
    "e3m4fn": (30, 0.25, 2**-6, 2**-4),
    "e3m4": (15.5, 0.25, 2**-6, 2**-4),
    "e3m2fn": (28, 0.25, 2**-4, 0.25),
    "e2m3fn": (7.5, 1, 0.125, 0.125),
    "e2m1fn": (6, 1, 0.5, 0.5),
    "fp16": (65504, 2**-14, 2**-24, 2**-10),
    "bf16": (float.fromhex("0x1.fep127"), 2**-126, 2**-133, 2**-7),
    "tf32": (float.fromhex("0x1.ffcp127"), 2**-126, 2**-136, 2**-10),
    "fp32": (float.fromhex("0x1.fffffep127"), 2**-126, 2**-149, 2**-23),
}


def all_codes(bits: int) -> np.ndarray:
    return np.arange(1 << bits, dtype=np.uint8 if bits <= 8 else np.uint16)


def assert_same_numbers(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit, the sign of zero included; NaN equals NaN."""
    expected = expected.astype(np.float32)
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[number], np.signbit(expected)[number])


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    fmt = SCALE_ELEMENTS.get(name) or element(name)
    codes = all_codes(fmt.bits)
    with np.errstate(invalid="ignore"):  # signalling NaNs among the codes
        expected = codes.view(ML_DTYPES[name]).astype(np.float32)
    assert_same_numbers(decode(codes, fmt), expected)


@pytest.mark.parametrize("name", TORCH)
def test_every_code_decodes_as_in_torch(name: str) -> None:
    fmt = SCALE_ELEMENTS.get(name) or element(name)
    codes = all_codes(fmt.bits)
    signed = codes.view(f"i{codes.itemsize}")
    expected = torch.from_numpy(signed).view(TORCH[name]).to(torch.float32).numpy()
    assert_same_numbers(decode(codes, fmt), expected)


@pytest.mark.parametrize("name", [*FLOATS, *WIDE_FLOATS])
def test_every_float_code_decodes_as_in_gfloat(name: str) -> None:
    fmt = element(name)
    codes = all_codes(fmt.bits)
    twin = gfloat_twin(name)
    assert_same_numbers(decode(codes, fmt), gfloat.decode_ndarray(twin, codes.astype(np.int64)))
    assert fmt.max == twin.max


@pytest.mark.parametrize("name", ["e5m2", "e4m3fn", "e3m2fn", "e2m3fn", "e2m1fn", "mxint8"])
def test_every_ocp_code_decodes_as_in_gfloats_own_table(name: str) -> None:
    own = getattr(gfloat.formats, f"format_info_ocp_{name.removesuffix('fn').removeprefix('mx')}")
    codes = all_codes(element(name).bits)
    expected = gfloat.decode_ndarray(own, codes.astype(np.int64))
    assert_same_numbers(decode(codes, element(name)), expected)


@pytest.mark.parametrize("name", EXACT)
def test_every_code_decodes_as_in_exact_rationals(name: str) -> None:
    fmt = element(name)
    assert fmt.bits == EXACT[name].bits
    assert_same_numbers(decode(all_codes(fmt.bits), fmt), EXACT[name].decoded())


@pytest.mark.parametrize("name", ["bf16", "e5m8fn", "e5m10fnuz"])
def test_every_16_bit_code_decodes_as_in_exact_rationals(name: str) -> None:
    exact = exact_float(name, *WIDE_FLOATS[name])
    fmt = element(name)
    assert_same_numbers(decode(all_codes(fmt.bits), fmt), exact.decoded())


@pytest.mark.parametrize(("bits", "es"), [(11, 2), (16, 0), (16, 1), (16, 2), (16, 3)])
def test_posits_of_other_sizes_decode_by_the_standards_formula(bits: int, es: int) -> None:
    fmt = element(f"posit{bits}es{es}")
    assert fmt == PositElement(name=f"posit{bits}es{es}", bits=bits, es=es)
    codes = all_codes(bits)[:: 1 if bits < 16 else 31]
    codes = codes[(codes != 0) & (codes != 1 << (bits - 1))]
    expected = np.array([float(posit_value(int(code), bits, es)) for code in codes])
    assert_same_numbers(decode(codes, fmt), expected)


def test_wide_integers_decode_as_their_own_bits() -> None:
    codes = all_codes(16)
    np.testing.assert_array_equal(decode(codes, element("int16")), codes.view(np.int16))
    np.testing.assert_array_equal(decode(codes, element("uint16")), codes)
    assert (element("int16").max, element("uint16").max) == (32767, 65535)


def test_posit8_has_the_values_that_are_known_of_it() -> None:
    # Largest, the one below, and the distance from 1: by hand from the bits.
    known = {"posit8es0": (6, 5, 5), "posit8es1": (12, 10, 4), "posit8es2": (24, 20, 3)}
    assert set(known) == set(POSITS) & set(ELEMENTS)
    for name in known:
        fmt = element(name)
        one, after, below, top = decode(np.array([0x40, 0x41, 0x7E, 0x7F], np.uint8), fmt)
        largest, next_below, fraction_bits = known[name]
        assert (one, after) == (1, 1 + 2.0**-fraction_bits)
        assert (below, top) == (2.0**next_below, 2.0**largest)
        assert (fmt.max, fmt.min_subnormal) == (top, 1 / top)
        np.testing.assert_array_equal(np.sort(code_values(fmt)), np.sort(-code_values(fmt)))


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_the_published_tables(name: str) -> None:
    fmt = element(name)
    assert isinstance(fmt, FloatElement)
    limits = (fmt.max, 2.0**fmt.min_exponent, fmt.min_subnormal, fmt.epsilon)
    assert limits == LIMITS[name]


@pytest.mark.parametrize("name", EXACT)
def test_derived_limits_follow_from_the_values(name: str) -> None:
    fmt, exact = element(name), EXACT[name]
    assert fmt.max == exact.max
    assert fmt.min_subnormal == min(value for value in exact.values.values() if value > 0)
    assert fmt.max_exponent == np.floor(np.log2(float(exact.max)))
    if isinstance(fmt, FloatElement):
        assert exact.values[fmt.max_code] == exact.max
        assert (fmt.nan_code in exact.nans) if exact.nans else fmt.nan_code is None
        assert fmt.inf_code == next(iter(exact.infinities), None)
    if isinstance(fmt, IntElement) and fmt.signed:
        assert -fmt.max == exact.min


def test_nf4_is_the_quantile_construction_of_qlora() -> None:
    # QLoRA, section 3: the quantiles of eight steps above zero, seven below, scaled to [-1, 1].
    quantile, offset = statistics.NormalDist().inv_cdf, 0.9677083

    def steps(count: int) -> list[float]:
        return [quantile(offset + (0.5 - offset) * i / count) for i in range(count)]

    values = sorted([*steps(8), 0.0, *(-value for value in steps(7))])
    values = [value / max(values) for value in values]
    nf4 = element("nf4")
    assert isinstance(nf4, CodebookElement)
    # The published table was made in fp32, offset included.
    np.testing.assert_allclose(nf4.values, values, rtol=0, atol=2e-7)
    assert [nf4.values[i] for i in (0, 7, 15)] == [-1, 0, 1]


def test_tf32_codes_are_the_first_19_bits_of_fp32() -> None:
    codes = np.arange(1 << 19, dtype=np.uint32)
    tf32 = element("tf32")
    assert code_dtype(tf32) is np.uint32
    expected = (codes << np.uint32(13)).view(np.float32)
    np.testing.assert_array_equal(decode(codes, tf32).view(np.uint32), expected.view(np.uint32))
    assert tf32.max == expected[np.isfinite(expected)].max()


def test_fp32_is_itself() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, 100_000, dtype=np.uint32)
    x = words.view(np.float32)
    number = ~np.isnan(x)
    codes = encode(x, element("fp32"), saturate=False)
    np.testing.assert_array_equal(codes[number], words[number])
    np.testing.assert_array_equal(codes[~number], 0x7FC00000)
    np.testing.assert_array_equal(decode(words, element("fp32")).view(np.uint32), words)


def test_nan_takes_one_code_of_each_format_whatever_its_sign() -> None:
    # ml_dtypes keeps the sign of a NaN; here it is dropped: 0x7F as in torch, not 0xFF.
    expected = {
        "e5m2": 0x7F,
        "e4m3fn": 0x7F,
        "e4m3": 0x7F,
        "e3m4fn": 0x7F,
        "e4m3fnuz": 0x80,
        "e5m2fnuz": 0x80,
        "bf16": 0x7FC0,
        "fp16": 0x7E00,
        "tf32": 0x7FC00000 >> 13,
        "posit8es2": 0x80,
        "e2m1fn": 0,
        "e3m2fn": 0,
        "int8": 0,
        "int4": 8,
        "uint4": 0,
        "nf4": 7,
    }
    payloads = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
    for name, code in expected.items():
        codes = encode(payloads.view(np.float32), element(name))
        np.testing.assert_array_equal(codes, code, err_msg=name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("e9m9", r"unknown element format 'e9m9': choose one of .*e4m3fn"),
        ("e4m3fm", r"unknown element format 'e4m3fm': .*e4m3fn"),
        ("e8m10", "19 bits: at most 16"),
        ("e1m3", "an exponent of 1 bit leaves no normal number"),
        ("ffp8_e4m4", "sign, exponent and mantissa must make 8 bits"),
        ("ffp8_ue4m3", "sign, exponent and mantissa must make 8 bits"),
        ("e4m3b999", "bias 999 moves its values out of fp32's range"),
        ("e4m3b-125", "bias -125 moves its values out of fp32's range"),
        ("e2m1", "'e2m1': write e2m1fn for the format of OCP MX v1.0, or the bias .* e2m1b1"),
        ("e3m2", "write e3m2fn .* e3m2b3"),
        ("e2m3", "write e2m3fn .* e2m3b1"),
        ("int1", "int1: integers of 2 to 16 bits, got 1"),
        ("uint17", "uint17: integers of 2 to 16 bits, got 17"),
        ("posit17es2", "posit17es2: posits of 3 to 16 bits and es 0 to 4, got 17, es 2"),
        ("posit16es4", r"posit16es4: posits up to 2\^126"),
        ("posit8es02", "unknown element format 'posit8es02'"),
        ("e8m5fn", "moves its values out of fp32's range"),
    ],
)
def test_names_that_spell_no_format_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        element(name)


@pytest.mark.parametrize("name", ["e3m2b3fn", "e2m3b1fn", "e2m1b1fn"])
def test_the_usual_bias_may_be_written_out(name: str) -> None:
    short, bias = element(f"{name[:4]}fn"), element(name)
    np.testing.assert_array_equal(code_values(bias), code_values(short))


def test_impossible_records_are_refused() -> None:
    def make(**facts: object) -> FloatElement:
        usual = {"name": "bad", "bits": 8, "precision": 4, "bias": 7, "specials": Specials.FN}
        return FloatElement(**{**usual, **facts})

    with pytest.raises(ValueError, match="need 1 < precision <= 7, which leaves an exponent"):
        make(precision=8)
    with pytest.raises(ValueError, match="without a sign there is no code of minus zero"):
        make(specials=Specials.FNUZ, signed=False)
    with pytest.raises(ValueError, match="integers of 2 to 16 bits, got 17"):
        IntElement(name="bad", bits=17)
    with pytest.raises(ValueError, match="posits of 3 to 16 bits and es 0 to 4, got 17, es 1"):
        PositElement(name="bad", bits=17, es=1)
    with pytest.raises(ValueError, match=r"posits up to 2\^126, in fp32's range, got 2\^224"):
        PositElement(name="bad", bits=16, es=4)
    with pytest.raises(ValueError, match=r"2\*\*bits values in ascending order"):
        CodebookElement(name="bad", bits=2, values=(0.0, 1.0, 1.0, 2.0))
    for value in (0.1, 1e300, 2.0**-150):
        with pytest.raises(ValueError, match=r"value .* is no fp32 number: round it first"):
            CodebookElement(name="bad", bits=1, values=(0.0, value))
    with pytest.raises(ValueError, match="a table of 32-bit codes is too long"):
        code_values(element("fp32"))


def test_scale_formats_are_element_formats_of_the_same_name() -> None:
    for name, fmt in SCALE_ELEMENTS.items():
        assert scale_element(name) is fmt
        assert name == "e8m0fnu" or ELEMENTS[name] == fmt
    with pytest.raises(ValueError, match="unknown scale format 'int8': choose one of fp32"):
        scale_element("int8")


def test_every_named_format_is_gone_through() -> None:
    tested = {*EXACT, *WIDE_FLOATS, "nf4", "tf32", "fp32"}
    assert set(ELEMENTS) <= tested
    small = [element(name) for name in tested if element(name).bits <= 16]
    small += [SCALE_ELEMENTS["e8m0fnu"]]
    sizes = [1 << fmt.bits for fmt in small]
    assert (len(sizes), sum(sizes)) == (54, 290_800)
