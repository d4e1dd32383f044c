"""The PTX that decodes bytes and 6-bit codes, run on every code without a GPU."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from ptx_machine import halves_of, run, wide_value

from tiles.formats import FloatElement, decode, element
from tiles.kernels.decoded_formats import template_element
from tiles.kernels.triton.decoded_element import Element
from tiles.kernels.triton.decoded_ptx import float_bytes, six_bits

KINDS = {"fp16": "f16x2", "bf16": "bf16x2"}


def facts(name: str) -> Element:
    found = template_element(element(name))
    assert found is not None
    return found


def body(ptx: str | None) -> str:
    assert ptx is not None
    return ptx.strip()[1:-1].replace("\n", " ")


def same(found: list[float], wanted: np.ndarray) -> bool:
    got = np.array(found, np.float32)
    equal = (got == wanted) & (np.signbit(got) == np.signbit(wanted))
    return bool((equal | (np.isnan(got) & np.isnan(wanted))).all())


@pytest.mark.parametrize(
    ("name", "wide"),
    [
        *((name, wide) for name in ("e3m4fn", "e4m3fn", "ffp8_e3m4", "e2m5fn") for wide in KINDS),
        ("ffp8_e4m3", "fp16"),
        ("ffp8_e4m3b11", "fp16"),
        ("ffp8_e5m2", "bf16"),
    ],
)
def test_every_byte_decodes_exactly(name: str, wide: str) -> None:
    text = body(float_bytes(facts(name), wide))
    # Every byte in one of the four places, beside differing neighbours.
    for first in range(0, 256, 4):
        packed = np.array([(first + step * 65) % 256 for step in range(4)], np.uint8)
        found = run(text, KINDS[wide], {"$2": int.from_bytes(packed.tobytes(), "little")})
        outputs = [x for i in range(2) for x in halves_of(found[f"${i}"], KINDS[wide])]
        assert same(outputs, decode(packed, element(name))), packed


@pytest.mark.parametrize("wide", KINDS)
@pytest.mark.parametrize("name", ["e3m2fn", "e2m3fn"])
def test_every_6_bit_code_decodes_exactly_whatever_stands_above(name: str, wide: str) -> None:
    text = body(six_bits(facts(name), wide))
    for first in range(64):
        codes = np.array([(first + step * 27) % 64 for step in range(4)], np.uint8)
        word = sum(int(code) << 6 * place for place, code in enumerate(codes))
        found = run(text, KINDS[wide], {"$4": word | (first * 4 + 3) % 256 << 24})
        outputs = [wide_value(found[f"${i}"], KINDS[wide]) for i in range(4)]
        assert same(outputs, decode(codes, element(name))), codes


def test_ptx_is_for_floats_that_one_multiplication_corrects() -> None:
    assert float_bytes(facts("e5m2"), "fp16") is None  # infinities
    assert float_bytes(facts("ffp8_e5m2"), "fp16") is None  # beyond fp16's exponents
    assert float_bytes(facts("posit8es1"), "bf16") is None
    assert float_bytes(facts("ffp8_e5m2b20"), "fp16") is None  # below fp16's exponents
    assert six_bits(facts("e2m1fn"), "bf16") is None
    assert isinstance(element("ffp8_e5m2b20"), FloatElement)
    # Nothing is left open in the text.
    for wide in KINDS:
        assert not re.search(r"None|\{[a-z]", body(float_bytes(facts("e3m4fn"), wide)))
