"""The PTX that rounds eight numbers to a word of e2m1fn codes, run without a GPU: the codec's."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from ptx_machine import run
from test_stochastic_ptx import body

from tiles.formats import Rounding, element, encode
from tiles.kernels.triton.tile_elements import EIGHT_E2M1

MIDDLES = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]


def _numbers() -> np.ndarray:
    """Middles, codes' own numbers and what lies next to them; far too large and far too small."""
    some = [*MIDDLES, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 7.9, 1e30, np.inf, 1e-30, 1e-45]
    at = np.array(some, np.float32)
    near = [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(0))]
    drawn = np.random.default_rng(0).uniform(0, 8, 500)
    found = np.concatenate([*near, drawn]).astype(np.float32)
    both = np.concatenate([found, -found])
    return np.random.default_rng(1).permutation(both)[: len(both) // 8 * 8].reshape(-1, 8)


def test_eight_codes_are_those_of_the_codec() -> None:
    text = body(EIGHT_E2M1)
    for numbers in _numbers():
        inputs = {f"${k + 1}": int(x.view(np.uint32)) for k, x in enumerate(numbers)}
        word = run(text, "", inputs)["$0"]
        found = [word >> 4 * k & 15 for k in range(8)]
        wanted = encode(numbers, element("e2m1fn"), Rounding.NEAREST_EVEN)
        assert found == wanted.tolist(), numbers


def test_nan_in_one_place_leaves_the_others() -> None:
    """What it becomes itself is not asked: such a block's codes are all zero."""
    numbers = np.array([1.0, -3.0, 0.5, -0.0, 6.0, -2.0, 1.5, 4.0], np.float32)
    inputs = {f"${k + 1}": int(x.view(np.uint32)) for k, x in enumerate(numbers)}
    good = run(body(EIGHT_E2M1), "", inputs)["$0"]
    for k in range(8):
        for bits in (0x7FC00000, 0xFFC00000):
            bad = run(body(EIGHT_E2M1), "", inputs | {f"${k + 1}": bits})["$0"]
            assert (bad ^ good) & ~(15 << 4 * k) == 0
