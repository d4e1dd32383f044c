"""What the launchers of the dataflow kernels share: checks, parameter blocks, alignment, keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .block_arrays import check_array, check_matrix
from .modules import load

__all__ = [
    "ELEMENTS",
    "KEYS",
    "aligned",
    "check_codes",
    "check_config",
    "check_format",
    "check_vector",
    "compiled",
    "pointer",
    "power_of_two",
    "round_keys",
    "strides",
]

#: Code formats by macro value; e4m3fn arrives as a uint8 view.
ELEMENTS = ("int8", "e4m3fn")
DTYPES = {"int8": "int8", "e4m3fn": "uint8"}
#: Codes that a thread moves at once.
VECTOR = 16
_WEYL = (0x9E3779B9, 0xBB67AE85)
#: NumPy's type of ``RoundKeys``.
KEYS = (np.uint32, (20,))


def power_of_two(value: int) -> bool:
    """True for 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def round_keys(seed: int) -> Any:
    """Philox's ten keys of a 64-bit seed, low words at even places.

    Raises:
        ValueError: the seed is not a 64-bit unsigned integer.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed}: a 64-bit unsigned integer")
    halves = (seed & 0xFFFFFFFF, seed >> 32)
    keys = [(halves[k % 2] + k // 2 * _WEYL[k % 2]) & 0xFFFFFFFF for k in range(20)]
    return np.array(keys, np.uint32)


@cache
def compiled(device: int, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Any:
    """Kernels of a source file by name; ``device`` is the current device, for which CuPy compiles.

    Raises:
        ImportError: CuPy is missing.
    """
    module = load(Path(__file__).with_name(source), options)
    return tuple(module.get_function(name) for name in names)


def check_format(element: str, block: tuple[int, int]) -> None:
    """Refuse a format that no dataflow kernel takes.

    Raises:
        ValueError: an unknown element, or blocks that are no powers of two at least 16 wide.
    """
    if element not in ELEMENTS:
        raise ValueError(f"element {element!r}: choose one of {', '.join(ELEMENTS)}")
    if len(block) != 2 or not all(map(power_of_two, block)) or block[1] < VECTOR:
        raise ValueError(
            f"block = {tuple(block)}: rows and columns must be powers of two, at least {VECTOR} "
            "columns"
        )


def check_config(config: Mapping[str, int | bool], fields: tuple[str, ...], block: Any) -> None:
    """Refuse a configuration that the kernels cannot be compiled with.

    Raises:
        ValueError: fields are missing or unknown, or threads and lanes do not fit the block.
    """
    if sorted(config) != sorted(fields):
        raise ValueError(f"config has fields {sorted(config)}: it takes {sorted(fields)}")
    threads, lanes = int(config["threads"]), int(config["lanes"])
    if not power_of_two(threads) or not 32 <= threads <= 1024:
        raise ValueError(f"threads = {threads}: it must be a power of two from 32 to 1024")
    vectors = block[0] * block[1] // VECTOR
    if not power_of_two(lanes) or lanes > min(threads, vectors):
        raise ValueError(
            f"lanes = {lanes}: it must be a power of two, at most the {threads} threads and the "
            f"{vectors} vectors of a block"
        )


def check_codes(name: str, array: Any, element: str, shape: tuple[int, ...]) -> None:
    """Refuse what is no contiguous matrix of codes of that shape.

    Raises:
        TypeError: no CuPy array, or of another dtype; ValueError: shape or strides.
    """
    check_array(name, array, (DTYPES[element],))
    check_matrix(name, array, shape)


def check_vector(name: str, array: Any, shape: tuple[int, ...], why: str) -> None:
    """Refuse what is no contiguous fp32 array of that shape.

    Raises:
        TypeError: missing, no CuPy array, or of another dtype; ValueError: shape or strides.
    """
    if array is None:
        raise TypeError(f"{name} is missing: {why}")
    check_array(name, array, ("float32",))
    if tuple(array.shape) != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} has shape {tuple(array.shape)} and strides {array.strides}: it must be "
            f"contiguous of shape {shape}"
        )


def aligned(cols: int, arrays: Mapping[str, Any]) -> bool:
    """Whether every vector of 16 lies inside its row and on a 16-byte boundary."""
    return cols % VECTOR == 0 and all(int(a.data.ptr) % 16 == 0 for a in arrays.values())


def pointer(array: Any) -> int:
    """Address of an array; 0 for none."""
    return 0 if array is None else int(array.data.ptr)


def strides(scales: Any) -> tuple[int, int]:
    """Row and column stride of scales in elements; zeros for none."""
    return (0, 0) if scales is None else (int(scales.strides[0]) // 4, int(scales.strides[1]) // 4)
