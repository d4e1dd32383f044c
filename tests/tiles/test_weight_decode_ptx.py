"""The PTX that decodes weights, run instruction by instruction on every byte, without a GPU."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.formats import decode, element
from tiles.kernels.triton import weight_decode


def blocks(function: str) -> dict[str, str]:
    """PTX of a device function by the type that it decodes to; fp16 comes first."""
    texts = re.findall(r'"""\{(.*?)\}"""', getattr(weight_decode, function).src, re.S)
    return dict(zip(("f16x2", "bf16x2"), texts, strict=True))


def wide_value(bits: int, kind: str) -> float:
    """The number of a 16-bit float's bit pattern."""
    name = "fp16" if kind == "f16x2" else "bf16"
    return float(decode(np.array([bits], np.uint16), element(name))[0])


def wide_bits(value: float, kind: str) -> int:
    """The bit pattern of a number that the 16-bit float holds exactly."""
    word = int(np.float32(value).view(np.uint32))
    if kind == "bf16x2":
        assert word & 0xFFFF == 0, value
        return word >> 16
    half = np.float16(value)
    assert float(half) == value
    return int(half.view(np.uint16))


def run(text: str, kind: str, inputs: dict[str, int]) -> dict[str, int]:
    """Registers after the instructions of ``text``."""
    registers = dict(inputs)

    def value(name: str) -> int:
        return int(name, 0) if name[0].isdigit() else registers[name]

    for line in text.strip().split(";"):
        line = line.strip()
        if not line or line.startswith(".reg"):
            continue
        operation, *operands = re.split(r"[ ,]+", line)
        target, args = operands[0], [value(name) for name in operands[1:]]
        match operation:
            case "mov.b32":
                result = args[0]
            case "and.b32":
                result = args[0] & args[1]
            case "shr.u32":
                result = args[0] >> args[1]
            case "shl.b32":
                result = args[0] << args[1]
            case "prmt.b32":
                source = (args[0] | args[1] << 32).to_bytes(8, "little")
                picks = [(args[2] >> 4 * i) & 15 for i in range(4)]
                assert max(picks) < 8  # no replication of signs
                result = int.from_bytes(bytes(source[p] for p in picks), "little")
            case "lop3.b32":
                a, b, c, table = args
                result = 0
                for row in range(8):
                    if table >> row & 1:
                        terms = [x if row & bit else ~x for x, bit in ((a, 4), (b, 2), (c, 1))]
                        result |= terms[0] & terms[1] & terms[2]
            case "fma.rn.f16x2" | "fma.rn.bf16x2":
                assert operation.endswith(f".{kind}")
                result = 0
                for shift in (0, 16):
                    a, b, c = (wide_value(x >> shift & 0xFFFF, kind) for x in args)
                    # Exact, as what is decoded fits; -0 as the addend keeps the product's sign.
                    total = a * b + c
                    result |= wide_bits(total, kind) << shift
            case _:
                raise AssertionError(f"no such instruction here: {line}")
        registers[target] = result & 0xFFFFFFFF
    return registers


def halves_of(register: int, kind: str) -> list[float]:
    return [wide_value(register >> shift & 0xFFFF, kind) for shift in (0, 16)]


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
    function = {"int4": "_nibbles", "e2m1fn": "_e2m1_halves"}[name]
    for word in WORDS:
        found = run(blocks(function)[kind], kind, {"$4": word})
        outputs = [found[f"${i}"] for i in range(4)]
        if name == "int4":
            less = blocks("_less_eight")[kind]
            outputs = [run(less, kind, {"$1": out})["$0"] for out in outputs]
        packed = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
        codes = np.concatenate([packed & 15, packed >> 4])
        wanted = codes.astype(np.float32) - 8 if name == "int4" else decode(codes, element(name))
        assert same([v for out in outputs for v in halves_of(out, kind)], wanted), hex(word)


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("name", ["int8", "e4m3fn"])
def test_every_8_bit_code_decodes_exactly(name: str, kind: str) -> None:
    function = {"int8": "_int8_bytes", "e4m3fn": "_e4m3_bytes"}[name]
    for word in WORDS:
        found = run(blocks(function)[kind], kind, {"$2": word})
        packed = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
        if name == "int8":
            wanted = packed.view(np.int8).astype(np.float32)
        else:
            wanted = decode(packed, element(name))
            # Documented: the code of NaN reads as a number here, packing keeps its NaN.
            wanted = np.where(packed == 0x7F, 480, np.where(packed == 0xFF, -480, wanted))
        outputs = [v for i in range(2) for v in halves_of(found[f"${i}"], kind)]
        assert same(outputs, wanted), hex(word)
