"""What the launchers of the dataflow kernels share: checks, parameter blocks, alignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from .block_arrays import check_array, check_matrix, check_one_device, check_scales
from .compiler_options import check_choices, check_fields
from .overlap import check_apart

__all__ = [
    "ELEMENTS",
    "aligned",
    "beside",
    "check_config",
    "check_epsilon",
    "check_format",
    "check_matrices",
    "check_memory",
    "check_optional",
    "check_vector",
    "parameter_block",
    "pointer",
    "power_of_two",
]

#: Code formats by macro value; e4m3fn arrives as a uint8 view.
ELEMENTS = ("int8", "e4m3fn")
DTYPES = {"int8": "int8", "e4m3fn": "uint8"}
#: Codes that a thread moves at once.
VECTOR = 16
#: Vectors of a line of memory, 128 bytes.
LINE_VECTORS = 8


def power_of_two(value: int) -> bool:
    """True for 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def check_format(element: str, block: tuple[int, int]) -> None:
    """Refuse a format that no dataflow kernel takes.

    Raises:
        ValueError: an unknown element, or blocks that are no powers of two at least 16 wide.
    """
    check_choices({"element": (element, ELEMENTS)})
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
    check_fields(config, fields)
    threads, lanes = int(config["threads"]), int(config["lanes"])
    if not power_of_two(threads) or not 32 <= threads <= 1024:
        raise ValueError(f"threads = {threads}: it must be a power of two from 32 to 1024")
    vectors = block[0] * block[1] // VECTOR
    if not power_of_two(lanes) or lanes > min(threads, vectors):
        raise ValueError(
            f"lanes = {lanes}: it must be a power of two, at most the {threads} threads and the "
            f"{vectors} vectors of a block"
        )


def check_matrices(
    codes: Mapping[str, Any],
    scales: Mapping[str, Any],
    element: str,
    shape: tuple[int, ...],
    block: tuple[int, int],
) -> None:
    """Refuse what are no contiguous matrices of codes of that shape, with one scale a block.

    Raises:
        TypeError: no CuPy array, or of another dtype; ValueError: shape or strides.
    """
    for name, array in codes.items():
        check_array(name, array, (DTYPES[element],))
        check_matrix(name, array, shape)
    for name, array in scales.items():
        check_scales(name, array, shape, block)


def check_optional(op: str, given: Mapping[str, Any], taken: Collection[str]) -> None:
    """Refuse an array that the operator does not take.

    Raises:
        ValueError: names it.
    """
    for name, array in given.items():
        if array is not None and name not in taken:
            raise ValueError(f"{name} is given: {op} takes none")


def check_epsilon(epsilon: float) -> None:
    """Refuse what keeps no variance from zero.

    Raises:
        ValueError: not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon = {epsilon}: it must be positive")


def check_memory(written: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """Refuse arrays on several devices, and outputs that share memory with others.

    Raises:
        ValueError: names them.
    """
    check_one_device({**read, **written})
    check_apart(written, read)


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


def parameter_block(
    dtype: np.dtype[Any],
    arrays: Mapping[str, Any],
    scales: Mapping[str, Any],
    numbers: Mapping[str, Any],
) -> Any:
    """A kernel's struct of parameters: addresses, strides of scales in elements, numbers.

    Args:
        arrays: by argument; those without a field of the struct are left out.
        scales: by the prefix of their strides' fields; ``None`` has none.
    """
    block = np.zeros((), dtype)
    for name, array in arrays.items():
        if name in (dtype.names or ()):
            block[name] = pointer(array)
    for name, array in scales.items():
        if array is not None:
            block[f"{name}_row"], block[f"{name}_col"] = (int(s) // 4 for s in array.strides)
    for name, value in numbers.items():
        block[name] = value
    return block[()]


def beside(block: tuple[int, int], lanes: int, groups: int) -> int:
    """Blocks side by side that threads share, so that a warp moves whole lines of 128 bytes.

    Args:
        lanes: threads of a block.
        groups: blocks that a CTA has side by side, a power of two.
    """
    vectors = max(1, block[1] // VECTOR)
    return 1 if lanes < vectors else max(1, min(LINE_VECTORS // vectors, groups))
