"""CuPy arrays of blockwise kernels: what launchers refuse of them, and how a block is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "MAX_BLOCKS",
    "check_array",
    "check_matrix",
    "check_one_device",
    "check_scales",
    "division",
]

#: Blocks of one launch: a kernel counts them in 31 bits.
MAX_BLOCKS = 2**31 - 1


def check_array(name: str, array: Any, dtypes: Sequence[str]) -> None:
    """Refuse what is no CuPy array of one of these dtypes.

    Raises:
        TypeError: names it.
    """
    if not hasattr(array, "data") or not hasattr(array.data, "ptr"):
        raise TypeError(f"{name} is {type(array).__name__}: it must be a CuPy array")
    if array.dtype.name not in dtypes:
        raise TypeError(f"{name} has dtype {array.dtype}: it must be {' or '.join(dtypes)}")


def check_matrix(name: str, array: Any, shape: Sequence[int] | None = None) -> None:
    """Refuse what is no C-contiguous matrix with elements.

    Args:
        shape: that of ``x``, which others have to have.
    Raises:
        ValueError: names it.
    """
    if len(array.shape) != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}: it must be a non-empty matrix")
    if shape is not None and tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(array.shape)}: x has {tuple(shape)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} has strides {array.strides}: it must be C-contiguous")


def check_scales(name: str, array: Any, shape: Sequence[int], block: Sequence[int]) -> None:
    """Refuse what is not one fp32 scale a block, in any strides.

    Args:
        shape: of the matrix.
        block: rows and columns under one scale; 0 columns are all of them.
    Raises:
        TypeError: no CuPy array, or of another dtype; ValueError: another shape, or too many.
    """
    check_array(name, array, ("float32",))
    grid = tuple(-(-n // b) if b else 1 for n, b in zip(shape, block, strict=True))
    if tuple(array.shape) != grid:
        raise ValueError(
            f"{name} have shape {tuple(array.shape)}: blocks of {tuple(block)} on {tuple(shape)} "
            f"need {grid}"
        )
    if grid[0] * grid[1] > MAX_BLOCKS:
        raise ValueError(f"{grid[0] * grid[1]} blocks: at most {MAX_BLOCKS} fit into one launch")


def check_one_device(arrays: Mapping[str, Any]) -> None:
    """Refuse arrays on several devices.

    Raises:
        ValueError: with each array's device.
    """
    devices = {name: array.device for name, array in arrays.items()}
    if any(device != next(iter(devices.values())) for device in devices.values()):
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{where}: they must share one device")


def division(divisor: int) -> tuple[int, int]:
    """(magic, shift) with n // divisor == (high32(n * magic) + n) >> shift for 0 <= n < 2^31.

    Source: Granlund and Montgomery, Division by invariant integers, PLDI 1994, figure 4.1.
    """
    shift = (divisor - 1).bit_length()
    return (2**32 * (2**shift - divisor)) // divisor + 1, shift
