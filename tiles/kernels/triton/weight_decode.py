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

from . import weight_ptx

__all__ = ["decode_bytes", "decode_halves", "round_bf16", "scaled"]

# Kernels read nothing but such constants from a module.
_NIBBLES_FP16 = tl.constexpr(weight_ptx.nibbles("fp16"))
_NIBBLES_BF16 = tl.constexpr(weight_ptx.nibbles("bf16"))
_LESS_EIGHT_FP16 = tl.constexpr(weight_ptx.less_eight("fp16"))
_LESS_EIGHT_BF16 = tl.constexpr(weight_ptx.less_eight("bf16"))
_SCALED_FP16 = tl.constexpr(weight_ptx.scaled_pairs("fp16"))
_SCALED_BF16 = tl.constexpr(weight_ptx.scaled_pairs("bf16"))
_E2M1_FP16 = tl.constexpr(weight_ptx.e2m1_halves("fp16"))
_E2M1_BF16 = tl.constexpr(weight_ptx.e2m1_halves("bf16"))
_INT8_FP16 = tl.constexpr(weight_ptx.int8_bytes("fp16"))
_INT8_BF16 = tl.constexpr(weight_ptx.int8_bytes("bf16"))
_E4M3_FP16 = tl.constexpr(weight_ptx.e4m3_bytes("fp16"))
_E4M3_BF16 = tl.constexpr(weight_ptx.e4m3_bytes("bf16"))


@triton.jit
def _nibbles(w, FP16: tl.constexpr):
    """Both halves of every byte as 128 + code in bf16, or 1024 + code in fp16."""
    ptx: tl.constexpr = _NIBBLES_FP16 if FP16 else _NIBBLES_BF16
    return tl.inline_asm_elementwise(
        ptx,
        "=r,=r,=r,=r,r",
        [w],
        dtype=(tl.float16, tl.float16) if FP16 else (tl.bfloat16, tl.bfloat16),
        is_pure=True,
        pack=4,
    )


@triton.jit
def _less_eight(x, FP16: tl.constexpr):
    """Subtract int4's zero point of 8 and the magic number from what ``_nibbles`` made."""
    ptx: tl.constexpr = _LESS_EIGHT_FP16 if FP16 else _LESS_EIGHT_BF16
    return tl.inline_asm_elementwise(
        ptx, "=r,r", [x], dtype=tl.float16 if FP16 else tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def _fma(x, factor, offset, FP16: tl.constexpr):
    """``x * factor + offset`` on pairs, rounded once; the tensors broadcast."""
    ptx: tl.constexpr = "fma.rn.f16x2 $0, $1, $2, $3;" if FP16 else "fma.rn.bf16x2 $0, $1, $2, $3;"
    return tl.inline_asm_elementwise(
        ptx,
        "=r,r,r,r",
        [x, factor, offset],
        dtype=tl.float16 if FP16 else tl.bfloat16,
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
    else:
        ptx: tl.constexpr = _SCALED_FP16 if FP16 else _SCALED_BF16
        return tl.inline_asm_elementwise(
            ptx,
            "=r,r,r",
            [x, scale],
            dtype=tl.float16 if FP16 else tl.bfloat16,
            is_pure=True,
            pack=2,
        )


@triton.jit
def _e2m1_halves(w, FP16: tl.constexpr):
    """Both e2m1fn codes of every byte."""
    ptx: tl.constexpr = _E2M1_FP16 if FP16 else _E2M1_BF16
    return tl.inline_asm_elementwise(
        ptx,
        "=&r,=&r,=&r,=&r,r",
        [w],
        dtype=(tl.float16, tl.float16) if FP16 else (tl.bfloat16, tl.bfloat16),
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
    """Two's complement bytes."""
    ptx: tl.constexpr = _INT8_FP16 if FP16 else _INT8_BF16
    return tl.inline_asm_elementwise(
        ptx, "=&r,=&r,r", [w], dtype=tl.float16 if FP16 else tl.bfloat16, is_pure=True, pack=4
    )


@triton.jit
def _e4m3_bytes(w, FP16: tl.constexpr):
    """e4m3fn bytes; the code of NaN reads as 480, so packing moves a NaN into its scale."""
    ptx: tl.constexpr = _E4M3_FP16 if FP16 else _E4M3_BF16
    return tl.inline_asm_elementwise(
        ptx, "=&r,=&r,r", [w], dtype=tl.float16 if FP16 else tl.bfloat16, is_pure=True, pack=4
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
