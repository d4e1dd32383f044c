"""The reference codec works piece by piece; where it cuts does not show."""

import numpy as np
import pytest

from tiles.formats import TensorFormat, quantize


@pytest.mark.parametrize("text", ["bf16+sr", "int8.b32x32+sr", "uint4.g128+sr", "posit8es1"])
def test_codes_do_not_depend_on_the_pieces(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = TensorFormat.parse(text)
    x = np.random.default_rng(3).standard_normal((31, 70), dtype=np.float32)
    whole = quantize(x, fmt, seed=5)
    monkeypatch.setattr("tiles.formats.codec._PIECE_ELEMENTS", 37)  # no multiple of 4
    pieces = quantize(x, fmt, seed=5)
    np.testing.assert_array_equal(pieces.codes, whole.codes)
