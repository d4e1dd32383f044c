"""The PTX that decodes weights, run instruction by instruction on every byte, without a GPU."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from ptx_machine import halves_of, run

from tiles.formats import decode, element
from tiles.kernels.triton import weight_ptx

WIDE = {"f16x2": "fp16", "bf16x2": "bf16"}


def same(found: list[float], wanted: np.ndarray) -> bool:
    return np.array_equal(
        np.array(found, np.float32).view(np.uint32), wanted.astype(np.float32).view(np.uint32)
    )


#: Four bytes at a time, each byte in each place and beside differing neighbours.
WORDS = [
    int.from_bytes(bytes((i + step * 89) % 256 for step in range(4)), "little") for i in range(256)
]


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("name", ["int4", "e2m1fn"])
def test_every_pair_of_4_bit_codes_decodes_exactly(name: str, kind: str) -> None:
    wide = WIDE[kind]
    text = weight_ptx.nibbles(wide) if name == "int4" else weight_ptx.e2m1_halves(wide)
    for word in WORDS:
        found = run(text[1:-1], kind, {"$4": word})
        outputs = [found[f"${i}"] for i in range(4)]
        if name == "int4":
            less = weight_ptx.less_eight(wide)[1:-1]
            outputs = [run(less, kind, {"$1": out})["$0"] for out in outputs]
        packed = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
        codes = np.concatenate([packed & 15, packed >> 4])
        wanted = codes.astype(np.float32) - 8 if name == "int4" else decode(codes, element(name))
        assert same([v for out in outputs for v in halves_of(out, kind)], wanted), hex(word)


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("name", ["int8", "e4m3fn"])
def test_every_8_bit_code_decodes_exactly(name: str, kind: str) -> None:
    wide = WIDE[kind]
    text = weight_ptx.int8_bytes(wide) if name == "int8" else weight_ptx.e4m3_bytes(wide)
    for word in WORDS:
        found = run(text[1:-1], kind, {"$2": word})
        packed = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
        if name == "int8":
            wanted = packed.view(np.int8).astype(np.float32)
        else:
            wanted = decode(packed, element(name))
            # Documented: the code of NaN reads as a number here, packing keeps its NaN.
            wanted = np.where(packed == 0x7F, 480, np.where(packed == 0xFF, -480, wanted))
        outputs = [v for i in range(2) for v in halves_of(found[f"${i}"], kind)]
        assert same(outputs, wanted), hex(word)
