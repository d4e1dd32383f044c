"""A machine for the few PTX instructions that decode and round packed numbers, without a GPU."""

import re

import numpy as np

from tiles.formats import decode, element


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
        if name.startswith("0f"):
            return int(name[2:], 16)
        return int(name, 0) if name[0].isdigit() else registers[name]

    for line in text.strip().split(";"):
        line = line.strip()
        if not line or line.startswith(".reg"):
            continue
        if pair := re.fullmatch(r"mov\.b32 \{(\S+), (\S+)\}, (\S+)", line):
            registers[pair[1]] = value(pair[3]) & 0xFFFF
            registers[pair[2]] = value(pair[3]) >> 16
            continue
        if pair := re.fullmatch(r"mov\.b64 \{(\S+), (\S+)\}, (\S+)", line):
            registers[pair[1]] = value(pair[3]) & 0xFFFFFFFF
            registers[pair[2]] = value(pair[3]) >> 32
            continue
        operation, *operands = re.split(r"[ ,]+", line)
        target, args = operands[0], [value(name) for name in operands[1:]]
        match operation:
            case "mov.b32":
                result = args[0]
            case "mul.wide.u32":
                registers[target] = args[0] * args[1]
                continue
            case "cvt.rzi.s32.f32":
                converted = float(np.uint32(args[0]).view(np.float32))
                result = 0 if np.isnan(converted) else int(converted)
            case "abs.f32":
                result = args[0] & 0x7FFFFFFF
            case "add.rn.f32" | "fma.rn.f32":
                *factors, addend = (np.uint32(x).view(np.float32) for x in args)
                # Of powers of two as factors: exact in fp64, then rounded once.
                total = np.prod(np.array(factors, np.float64)) + np.float64(addend)
                with np.errstate(over="ignore"):
                    result = int(np.float32(total).view(np.uint32))
            case "min.s32":
                result = min(args, key=lambda x: x - (x >> 31 << 32))
            case "mad.lo.u32":
                result = args[0] * args[1] + args[2]
            case "xor.b32":
                result = args[0] ^ args[1]
            case "add.u32" | "add.s32":
                result = args[0] + args[1]
            case "and.b32":
                result = args[0] & args[1]
            case "shr.u32":
                result = args[0] >> args[1]
            case "shl.b32":
                result = args[0] << args[1]
            case "prmt.b32":
                source = (args[0] | args[1] << 32).to_bytes(8, "little")
                picks = [(args[2] >> 4 * i) & 15 for i in range(4)]
                # From 8 on the byte's sign, eight times.
                taken = (source[p] if p < 8 else 255 * (source[p - 8] >> 7) for p in picks)
                result = int.from_bytes(bytes(taken), "little")
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
