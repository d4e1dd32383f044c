"""Device functions that turn tiles of packed weight codes into 16-bit floats, in registers.

Every function works on bytes in any order and yields one value for each 4-bit half of a byte, or
one for each byte.  On a GPU four bytes share a register and two values another one, so that a few
byte permutes, three-input logic operations and packed multiply-adds serve eight 4-bit weights:

* int4, uint4: the byte ``[code, 0x43]`` is bf16's 128 + code (``0x64``: fp16's 1024 + code), from
  which 128 plus the zero point is subtracted: 7 integer operations and 4 packed subtractions;
* int8: the same with 7 bits, where the sign bit chooses 128 or 256 as what is subtracted;
* e4m3fn, e2m1fn: exponent and mantissa are shifted into place under bf16's (fp16's) own exponent
  bias, and a power of two corrects for that, subnormals included.

Under the interpreter, which runs no PTX, the same values come from integer arithmetic in fp32.
"""

import triton
import triton.language as tl

__all__ = ["decode_bytes", "decode_halves", "round_bf16", "scaled"]


@triton.jit
def _nibbles(w, FP16: tl.constexpr):
    """Both halves of every byte as 128 + code in bf16, or 1024 + code in fp16."""
    if FP16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high, magic;
            mov.b32 magic, 0x64646464;
            and.b32 low, $4, 0x0F0F0F0F;
            shr.u32 high, $4, 4;
            and.b32 high, high, 0x0F0F0F0F;
            prmt.b32 $0, low, magic, 0x4140;
            prmt.b32 $1, low, magic, 0x4342;
            prmt.b32 $2, high, magic, 0x4140;
            prmt.b32 $3, high, magic, 0x4342;
            }""",
            "=r,=r,=r,=r,r",
            [w],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 low, high, magic;
            mov.b32 magic, 0x43434343;
            and.b32 low, $4, 0x0F0F0F0F;
            shr.u32 high, $4, 4;
            and.b32 high, high, 0x0F0F0F0F;
            prmt.b32 $0, low, magic, 0x4140;
            prmt.b32 $1, low, magic, 0x4342;
            prmt.b32 $2, high, magic, 0x4140;
            prmt.b32 $3, high, magic, 0x4342;
            }""",
            "=r,=r,=r,=r,r",
            [w],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )


@triton.jit
def _less_eight(x, FP16: tl.constexpr):
    """Subtract int4's zero point of 8 and the magic number from what ``_nibbles`` made."""
    if FP16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 one, offset;
            mov.b32 one, 0x3C003C00;
            mov.b32 offset, 0xE408E408;
            fma.rn.f16x2 $0, $1, one, offset;
            }""",
            "=r,r",
            [x],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 one, offset;
            mov.b32 one, 0x3F803F80;
            mov.b32 offset, 0xC308C308;
            fma.rn.bf16x2 $0, $1, one, offset;
            }""",
            "=r,r",
            [x],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def _fma(x, factor, offset, FP16: tl.constexpr):
    """``x * factor + offset`` on pairs, rounded once; the tensors broadcast."""
    if FP16:
        return tl.inline_asm_elementwise(
            "fma.rn.f16x2 $0, $1, $2, $3;",
            "=r,r,r,r",
            [x, factor, offset],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.inline_asm_elementwise(
            "fma.rn.bf16x2 $0, $1, $2, $3;",
            "=r,r,r,r",
            [x, factor, offset],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def round_bf16(x):
    """Round fp32 to bf16's grid, to even, and keep it in fp32; NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return tl.where(x != x, x, rounded.to(tl.float32, bitcast=True))


@triton.jit
def scaled(x, scale, FP16: tl.constexpr, INTERPRET: tl.constexpr):
    """Weights times their scales (which broadcast), rounded once to the type of both."""
    if INTERPRET:
        if FP16:
            return (x * scale.to(tl.float32)).to(tl.float16).to(tl.float32)
        else:
            return round_bf16(x * scale.to(tl.float32))
    elif FP16:
        return tl.inline_asm_elementwise(
            "mul.rn.f16x2 $0, $1, $2;",
            "=r,r,r",
            [x, scale],
            dtype=tl.float16,
            is_pure=True,
            pack=2,
        )
    else:
        # fma with -0 keeps the sign of zero products; mul.bf16x2 needs capability 9.0.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 nothing;
            mov.b32 nothing, 0x80008000;
            fma.rn.bf16x2 $0, $1, $2, nothing;
            }""",
            "=r,r,r",
            [x, scale],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def _e2m1_halves(w, FP16: tl.constexpr):
    """Both e2m1fn codes of every byte.

    The exponent and mantissa bits go below the wide exponent, 2^-126 (fp16: 2^-14) too small.
    """
    if FP16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, m, p, factor, nothing;
            mov.b32 factor, 0x74007400;
            mov.b32 nothing, 0x80008000;
            prmt.b32 a, $4, 0, 0x1404;
            prmt.b32 b, $4, 0, 0x3424;
            shr.u32 m, a, 3;
            and.b32 m, m, 0x0E000E00;
            lop3.b32 p, a, nothing, m, 0xEA;
            fma.rn.f16x2 $2, p, factor, nothing;
            shr.u32 m, b, 3;
            and.b32 m, m, 0x0E000E00;
            lop3.b32 p, b, nothing, m, 0xEA;
            fma.rn.f16x2 $3, p, factor, nothing;
            shl.b32 a, a, 4;
            shr.u32 m, a, 3;
            and.b32 m, m, 0x0E000E00;
            lop3.b32 p, a, nothing, m, 0xEA;
            fma.rn.f16x2 $0, p, factor, nothing;
            shl.b32 b, b, 4;
            shr.u32 m, b, 3;
            and.b32 m, m, 0x0E000E00;
            lop3.b32 p, b, nothing, m, 0xEA;
            fma.rn.f16x2 $1, p, factor, nothing;
            }""",
            "=&r,=&r,=&r,=&r,r",
            [w],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=4,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 a, b, m, p, factor, nothing;
            mov.b32 factor, 0x7E807E80;
            mov.b32 nothing, 0x80008000;
            prmt.b32 a, $4, 0, 0x1404;
            prmt.b32 b, $4, 0, 0x3424;
            shr.u32 m, a, 6;
            and.b32 m, m, 0x01C001C0;
            lop3.b32 p, a, nothing, m, 0xEA;
            fma.rn.bf16x2 $2, p, factor, nothing;
            shr.u32 m, b, 6;
            and.b32 m, m, 0x01C001C0;
            lop3.b32 p, b, nothing, m, 0xEA;
            fma.rn.bf16x2 $3, p, factor, nothing;
            shl.b32 a, a, 4;
            shr.u32 m, a, 6;
            and.b32 m, m, 0x01C001C0;
            lop3.b32 p, a, nothing, m, 0xEA;
            fma.rn.bf16x2 $0, p, factor, nothing;
            shl.b32 b, b, 4;
            shr.u32 m, b, 6;
            and.b32 m, m, 0x01C001C0;
            lop3.b32 p, b, nothing, m, 0xEA;
            fma.rn.bf16x2 $1, p, factor, nothing;
            }""",
            "=&r,=&r,=&r,=&r,r",
            [w],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )


@triton.jit
def _e2m1_value(code):
    """e2m1fn codes (int32) in fp32."""
    exponent = (code >> 1) & 3
    mantissa = (code & 1).to(tl.float32)
    normal = (1.0 + 0.5 * mantissa) * (1 << tl.maximum(exponent - 1, 0)).to(tl.float32)
    size = tl.where(exponent == 0, 0.5 * mantissa, normal)
    return tl.where((code & 8) != 0, -size, size)


@triton.jit
def decode_halves(w, zero, FORMAT: tl.constexpr, FP16: tl.constexpr, INTERPRET: tl.constexpr):
    """Values of the low and of the high halves of bytes.

    Args:
        w: uint8 tile, two codes a byte.
        zero: zero points of the low and of the high halves, uint16, broadcast to ``w``; uint4 only.
    """
    if INTERPRET:
        low, high = w.to(tl.int32) & 15, w.to(tl.int32) >> 4
        if FORMAT == "e2m1fn":
            return _e2m1_value(low), _e2m1_value(high)
        elif FORMAT == "int4":
            return (low - 8).to(tl.float32), (high - 8).to(tl.float32)
        else:
            return (low - zero[0].to(tl.int32)).to(tl.float32), (high - zero[1].to(tl.int32)).to(
                tl.float32
            )
    elif FORMAT == "e2m1fn":
        return _e2m1_halves(w, FP16)
    else:
        low, high = _nibbles(w, FP16)
        if FORMAT == "int4":
            return _less_eight(low, FP16), _less_eight(high, FP16)
        else:
            # The same magic number stands above the zero point, with a minus before it.
            magic: tl.constexpr = 0xE400 if FP16 else 0xC300
            wide: tl.constexpr = tl.float16 if FP16 else tl.bfloat16
            one = tl.full((1, 1), 1.0, wide)
            less_low = (zero[0] | magic).to(wide, bitcast=True)
            less_high = (zero[1] | magic).to(wide, bitcast=True)
            return _fma(low, one, less_low, FP16), _fma(high, one, less_high, FP16)


@triton.jit
def _int8_bytes(w, FP16: tl.constexpr):
    """Two's complement bytes: (magic + 7 bits) less the magic number, or that plus 128."""
    if FP16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q, a, b, magic, minus;
            mov.b32 magic, 0x64646464;
            mov.b32 minus, 0xBC00BC00;
            prmt.b32 p, $2, magic, 0x4140;
            prmt.b32 q, $2, magic, 0x4342;
            and.b32 a, p, 0xFF7FFF7F;
            and.b32 b, p, 0xFF80FF80;
            fma.rn.f16x2 $0, b, minus, a;
            and.b32 a, q, 0xFF7FFF7F;
            and.b32 b, q, 0xFF80FF80;
            fma.rn.f16x2 $1, b, minus, a;
            }""",
            "=&r,=&r,r",
            [w],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q, a, b, magic, minus;
            mov.b32 magic, 0x43434343;
            mov.b32 minus, 0xBF80BF80;
            prmt.b32 p, $2, magic, 0x4140;
            prmt.b32 q, $2, magic, 0x4342;
            and.b32 a, p, 0xFF7FFF7F;
            and.b32 b, p, 0xFF80FF80;
            fma.rn.bf16x2 $0, b, minus, a;
            and.b32 a, q, 0xFF7FFF7F;
            and.b32 b, q, 0xFF80FF80;
            fma.rn.bf16x2 $1, b, minus, a;
            }""",
            "=&r,=&r,r",
            [w],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )


@triton.jit
def _e4m3_bytes(w, FP16: tl.constexpr):
    """e4m3fn bytes; the code of NaN reads as 480, so packing moves a NaN into its scale."""
    if FP16:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q, m, factor, nothing;
            mov.b32 factor, 0x5C005C00;
            mov.b32 nothing, 0x80008000;
            prmt.b32 p, $2, 0, 0x1404;
            prmt.b32 q, $2, 0, 0x3424;
            and.b32 m, p, 0x7FFF7FFF;
            shr.u32 m, m, 1;
            lop3.b32 p, p, nothing, m, 0xEA;
            fma.rn.f16x2 $0, p, factor, nothing;
            and.b32 m, q, 0x7FFF7FFF;
            shr.u32 m, m, 1;
            lop3.b32 q, q, nothing, m, 0xEA;
            fma.rn.f16x2 $1, q, factor, nothing;
            }""",
            "=&r,=&r,r",
            [w],
            dtype=tl.float16,
            is_pure=True,
            pack=4,
        )
    else:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 p, q, m, factor, nothing;
            mov.b32 factor, 0x7B807B80;
            mov.b32 nothing, 0x80008000;
            prmt.b32 p, $2, 0, 0x1404;
            prmt.b32 q, $2, 0, 0x3424;
            and.b32 m, p, 0x7FFF7FFF;
            shr.u32 m, m, 4;
            lop3.b32 p, p, nothing, m, 0xEA;
            fma.rn.bf16x2 $0, p, factor, nothing;
            and.b32 m, q, 0x7FFF7FFF;
            shr.u32 m, m, 4;
            lop3.b32 q, q, nothing, m, 0xEA;
            fma.rn.bf16x2 $1, q, factor, nothing;
            }""",
            "=&r,=&r,r",
            [w],
            dtype=tl.bfloat16,
            is_pure=True,
            pack=4,
        )


@triton.jit
def decode_bytes(w, FORMAT: tl.constexpr, FP16: tl.constexpr, INTERPRET: tl.constexpr):
    """Values of bytes that hold one code each."""
    if INTERPRET:
        code = w.to(tl.int32)
        if FORMAT == "int8":
            return tl.where(code > 127, code - 256, code).to(tl.float32)
        else:
            exponent = (code >> 3) & 15
            mantissa = (code & 7).to(tl.float32)
            normal = (8.0 + mantissa) * (1 << tl.maximum(exponent - 1, 0)).to(tl.float32)
            size = tl.where(exponent == 0, mantissa, normal) * 0.001953125
            return tl.where(code > 127, -size, size)
    elif FORMAT == "int8":
        return _int8_bytes(w, FP16)
    else:
        return _e4m3_bytes(w, FP16)
