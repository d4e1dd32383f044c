"""What people would call instead of the package's products, on the operands that it is given.

At the power limit a GPU's clock depends on the data that it multiplies, so a rival gets the codes
and scales of the package's entry of the same recipe, bit for bit, and its outputs rotate as the
package's do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tiles.recipes import recipe
from workbench.verification.operands import Pattern, draw_pair

__all__ = ["RIVALS", "RivalOperands", "RivalProduct", "clone", "make_launch", "rival_operands"]

#: Columns that ``torch._scaled_mm`` wants a row of 128x128 scales padded to.
SCALE_PADDING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalProduct:
    """A product of torch, and the recipe whose operands it takes."""

    name: str
    recipe: str
    note: str = ""  #: what it leaves out or does otherwise
    fast: bool = False  #: accumulates 8-bit floats in the tensor cores alone


RIVALS = (
    RivalProduct(name="torch.matmul bf16", recipe="bf16"),
    RivalProduct(
        name="torch._scaled_mm tensor, fast accumulation", recipe="e4m3-tensor", fast=True
    ),
    RivalProduct(name="torch._scaled_mm row, fast accumulation", recipe="e4m3-row", fast=True),
    RivalProduct(name="torch._scaled_mm 1x128 by 128x128", recipe="deepseek-fp8"),
    RivalProduct(name="torch._int_mm", recipe="int8-row", note="writes unscaled int32"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalOperands:
    """Operands of one product, scales in the layout that torch asks for."""

    a: torch.Tensor  #: (M, K)
    b: torch.Tensor  #: (N, K); torch takes its transpose
    a_scale: torch.Tensor | None
    b_scale: torch.Tensor | None
    out_dtype: torch.dtype

    @property
    def set_bytes(self) -> int:
        """Size of one set of operands and output."""
        tensors = (t for t in (self.a, self.b, self.a_scale, self.b_scale) if t is not None)
        out = self.a.shape[0] * self.b.shape[0] * self.out_dtype.itemsize
        return out + sum(t.numel() * t.element_size() for t in tensors)


def clone(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, padding included."""
    return _with_strides(tensor, tensor.stride())


def _with_strides(tensor: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    copy = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


def rival_operands(
    rival: RivalProduct, shape: tuple[int, int, int], *, seed: int, device: str
) -> RivalOperands:
    """Codes and scales of the package's entry of the rival's recipe, (M, N, K) = ``shape``."""
    a, b = draw_pair(shape, recipe(rival.recipe), Pattern.RANDOM, seed, device)
    a_scale, b_scale = a.scales, b.scales
    out_dtype = torch.bfloat16
    if rival.recipe == "int8-row":
        a_scale, b_scale, out_dtype = None, None, torch.int32
    if a_scale is not None and b_scale is not None:
        a_scale, b_scale = _scales(rival.recipe, a_scale, b_scale)
    return RivalOperands(
        a=a.codes, b=b.codes, a_scale=a_scale, b_scale=b_scale, out_dtype=out_dtype
    )


def _scales(name: str, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale grids of A and B as ``torch._scaled_mm`` takes them, B's transposed like B itself."""
    if name == "e4m3-tensor":
        return a.reshape(()), b.reshape(())
    if name == "e4m3-row":
        return a.contiguous(), b.t().contiguous()
    # 1x128 for A with rows contiguous; 128x128 for B with K contiguous, padded.
    padded = -(-b.shape[1] // SCALE_PADDING) * SCALE_PADDING
    return _with_strides(a, (1, a.shape[0])), _with_strides(b.t(), (1, padded))


def make_launch(rival: RivalProduct, operands: RivalOperands) -> Callable[[], object]:
    """One launch on a copy of the operands, into an output of its own."""
    a, b = clone(operands.a), clone(operands.b).t()
    shape = (a.shape[0], b.shape[1])
    out = torch.empty(shape, dtype=operands.out_dtype, device=a.device)
    if operands.out_dtype is torch.int32:
        if hasattr(torch.ops.aten._int_mm, "out"):
            return lambda: torch._int_mm(a, b, out=out)
        return lambda: torch._int_mm(a, b)
    if operands.a_scale is None or operands.b_scale is None:
        return lambda: torch.matmul(a, b, out=out)
    keywords: dict[str, Any] = {
        "scale_a": clone(operands.a_scale),
        "scale_b": clone(operands.b_scale),
        "out_dtype": operands.out_dtype,
        "use_fast_accum": rival.fast,
    }
    if hasattr(torch.ops.aten._scaled_mm, "out"):
        keywords["out"] = out
    return lambda: torch._scaled_mm(a, b, **keywords)
