"""Triton's interpreter as exact as the GPU, as far as the quantisation kernels need it.

The interpreter rounds the product inside ``fma``, which breaks a correctly rounded division, takes
bf16's subnormals for other numbers, truncates in the cast to bf16, and evaluates a reduction by a
function of one's own element by element, at a millisecond each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from tiles.kernels.triton import quantize_blocks

__all__ = ["exact_interpreter"]


def _fused(_: Any, x: Any, y: Any, z: Any) -> Any:
    """``x·y + z`` rounded once: a product of two fp32 is exact in a long double of 64 bits."""
    wide = x.data.astype(np.longdouble) * y.data + z.data
    return interpreter.TensorHandle(wide.astype(x.data.dtype), z.dtype.scalar)


def _bf16_cast(cast: Any) -> Any:
    """A cast that is exact from bf16 to fp32, and rounds to nearest even on the way back."""

    def exact(self: Any, source: Any, wanted: Any) -> Any:
        pair = (source.dtype.scalar, wanted.scalar)
        if pair == (tl.bfloat16, tl.float32):
            words = source.data.view(np.uint16).astype(np.uint32) << np.uint32(16)
            return interpreter.TensorHandle(words.view(np.float32), wanted.scalar)
        if pair == (tl.float32, tl.bfloat16):
            words = np.ascontiguousarray(source.data).view(np.uint32)
            rounded = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
            rounded = np.where(np.isnan(source.data), np.uint32(0x7FFF0000), rounded)
            data = (rounded >> np.uint32(16)).astype(np.uint16)
            return interpreter.TensorHandle(data, wanted.scalar)
        return cast(self, source, wanted)

    return exact


@contextmanager
def exact_interpreter(template: Any = quantize_blocks) -> Iterator[None]:
    """Within the context, interpreted launches of the quantisation kernel are exact and fast.

    Args:
        template: the module that holds the kernel; an emitted package has its own copy.
    """
    builder, reduction = interpreter.InterpreterBuilder, interpreter.ReduceOps
    original_fma, original_reduce = builder.create_fma, reduction.apply_impl
    original_cast = builder.cast_impl

    def reduce(self: Any, operand: Any) -> Any:
        if self.combine_fn is template.larger:
            return self.min_max(operand[0], val_reduce_op=np.max)  # np.max lets NaN win
        return original_reduce(self, operand)

    builder.create_fma, reduction.apply_impl = _fused, reduce
    builder.cast_impl = _bf16_cast(original_cast)
    try:
        # A NaN or a zero scale is an answer here, not an accident to warn of.
        with np.errstate(all="ignore"):
            yield
    finally:
        builder.create_fma, reduction.apply_impl = original_fma, original_reduce
        builder.cast_impl = original_cast
