"""Triton's interpreter as exact as the GPU, as far as the quantisation kernel needs it.

The interpreter rounds the product inside ``fma``, which breaks a correctly rounded division, and
evaluates a reduction by a function of one's own element by element, at a millisecond each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

from tiles.kernels.triton import quantize_blocks

__all__ = ["exact_interpreter"]


def _fused(_: Any, x: Any, y: Any, z: Any) -> Any:
    """``x·y + z`` rounded once: a product of two fp32 is exact in a long double of 64 bits."""
    wide = x.data.astype(np.longdouble) * y.data + z.data
    return interpreter.TensorHandle(wide.astype(x.data.dtype), z.dtype.scalar)


@contextmanager
def exact_interpreter(template: Any = quantize_blocks) -> Iterator[None]:
    """Within the context, interpreted launches of the quantisation kernel are exact and fast.

    Args:
        template: the module that holds the kernel; an emitted package has its own copy.
    """
    builder, reduction = interpreter.InterpreterBuilder, interpreter.ReduceOps
    original_fma, original_reduce = builder.create_fma, reduction.apply_impl

    def reduce(self: Any, operand: Any) -> Any:
        if self.combine_fn is template._larger:
            return self.min_max(operand[0], val_reduce_op=np.max)  # np.max lets NaN win
        return original_reduce(self, operand)

    builder.create_fma, reduction.apply_impl = _fused, reduce
    try:
        # A NaN or a zero scale is an answer here, not an accident to warn of.
        with np.errstate(all="ignore"):
            yield
    finally:
        builder.create_fma, reduction.apply_impl = original_fma, original_reduce
