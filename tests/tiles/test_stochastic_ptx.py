"""The PTX of stochastic rounding, run without a GPU: its codes are the codec's."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from ptx_machine import run

from tiles.formats import Rounding, element, encode
from tiles.kernels.triton.tile_elements import FOUR_CODES
from tiles.kernels.triton.tile_random import WIDE_PRODUCT


def body(constant: object) -> str:
    return str(getattr(constant, "value", constant)).strip()[1:-1].replace("\n", " ")


def test_four_codes_are_those_of_the_codec() -> None:
    """Also on whole numbers, next to them, at the ends of the range and in NaN's place."""
    rng = np.random.default_rng(0)
    edges = np.array([0.0, -0.0, 1.0, -1.0, 126.5, -126.5, 127.0, -127.0], np.float32)
    below = np.nextafter(edges, np.float32(0))
    ratio = np.concatenate([edges, below, rng.uniform(-127, 127, 600), rng.normal(size=384)])
    ratio = ratio.astype(np.float32).reshape(-1, 4)
    halves = rng.integers(0, 2**16, ratio.shape, dtype=np.uint32)
    halves[:4, :2], halves[:4, 2:] = 0, 65535
    wanted = encode(ratio, element("int8"), Rounding.STOCHASTIC, random=halves << np.uint32(16))
    text = body(FOUR_CODES)
    for numbers, random, codes in zip(ratio, halves.tolist(), wanted, strict=True):
        fixed = (numbers * np.float32(65536)).view(np.uint32).tolist()
        inputs = {f"${i + 1}": bits for i, bits in enumerate(fixed)}
        inputs |= {"$5": random[0] | random[1] << 16, "$6": random[2] | random[3] << 16}
        packed = run(text, "", inputs)["$0"]
        found = np.array([packed], "<u4").view(np.int8)
        np.testing.assert_array_equal(found, codes.view(np.int8), err_msg=f"{numbers} {random}")
    poisoned = {f"${i}": 0x7FC00000 for i in range(1, 5)} | {"$5": 2**32 - 1, "$6": 2**32 - 1}
    assert run(text, "", poisoned)["$0"] == 0


def test_the_wide_product_gives_both_halves() -> None:
    for a in (0, 1, 0xFFFFFFFF, 0x12345678):
        found = run(body(WIDE_PRODUCT), "", {"$2": a, "$3": 0xD2511F53})
        assert (found["$0"] << 32 | found["$1"]) == a * 0xD2511F53
