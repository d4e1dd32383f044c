"""What tensors of a call must look like: each rule once, checked before anything is launched."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._torch_device import DTYPES

#: Rows and columns under one scale, 0 for the whole extent; ``None`` without scales.
Block = tuple[int, int] | None


def check_tensor(name: str, value: object) -> None:
    """Raises TypeError for what is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}: it must be a torch tensor")


def check_tensors(first: str, **tensors: object) -> None:
    """Check that all that are given are tensors on one device.

    Args:
        first: name of the one whose device counts.
        tensors: by name; ``None`` for those that are not given.
    Raises:
        TypeError: no tensor; ValueError: on another device.
    """
    home = tensors[first]
    check_tensor(first, home)
    assert isinstance(home, Tensor)
    for name, value in tensors.items():
        if value is None:
            continue
        check_tensor(name, value)
        assert isinstance(value, Tensor)
        if value.device != home.device:
            raise ValueError(
                f"{first} lies on {home.device}, {name} on {value.device}: move one of them"
            )


def scale_grid(rows: int, cols: int, block: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the scales of a matrix."""
    return (
        -(-rows // block[0]) if block[0] else 1,
        -(-cols // block[1]) if block[1] else 1,
    )


def check_operand(name: str, operand: Tensor, element: str) -> None:
    """Raises TypeError for another element than the recipe's."""
    if operand.dtype != DTYPES[element]:
        raise TypeError(f"{name} must be {DTYPES[element]} for this recipe, got {operand.dtype}")


def check_scale(name: str, scale: Tensor | None, shape: Sequence[int], block: Block) -> None:
    """Check an operand's scales.

    Args:
        name: of the operand.
        scale: what was given for it.
        shape: of the operand, matrices last.
        block: the recipe's.
    Raises:
        ValueError: missing, given without need, or of another shape; TypeError: not fp32.
    """
    if block is None:
        if scale is not None:
            raise ValueError(f"{name}_scale: the recipe leaves {name} unscaled, pass None")
        return
    grid = (*shape[:-2], *scale_grid(shape[-2], shape[-1], block))
    if scale is None:
        raise ValueError(f"{name}_scale is missing: the recipe takes fp32 scales {grid}")
    if scale.dtype != torch.float32:
        raise TypeError(f"{name}_scale must be torch.float32, got {scale.dtype}")
    if tuple(scale.shape) != grid:
        raise ValueError(f"{name}_scale must be {grid}, got {tuple(scale.shape)}")


def check_sums(k: int, most: int | None) -> None:
    """Raises ValueError where an int32 accumulator could overflow."""
    if most is not None and k > most:
        raise ValueError(f"K {k} > {most}: the int32 accumulator could overflow, split K")


def check_out(
    out: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    name: str = "out",
    contiguous: bool = False,
) -> None:
    """Check an output that the caller owns.

    Args:
        out: a tensor on the operands' device.
        shape: it must have.
        dtype: it must hold.
        name: of the argument.
        contiguous: rows must follow each other.
    Raises:
        ValueError: shape or strides; TypeError: another dtype.
    """
    if tuple(out.shape) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(out.shape)}")
    if contiguous and not out.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {out.stride()}: pass a copy")
    if out.dtype != dtype:
        raise TypeError(f"{name} holds {out.dtype}: it must be {dtype}")


def check_seed(format: str, seed: int | None, *, stochastic: bool) -> None:
    """Raises ValueError for a seed that a format does not take, lacks, or out of range."""
    if stochastic != (seed is not None):
        needed = "needs a seed" if stochastic else "rounds to nearest: pass no seed"
        raise ValueError(f"seed: {format} {needed}")
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed}: it must lie in 0..2^63 - 1")
