"""Memory check for Triton's interpreter: what compute-sanitizer's memcheck does on a GPU.

While :func:`checked` is active, every element that a kernel loads, stores or updates atomically,
unless masked off, must be an element of the tensor whose pointer its address was computed from.
The tensor is the launch's argument as it was passed, a view where it is one: neither the rest of
its storage nor the gaps between its rows belong to it.  Descriptors mask by their own extents
first, as the hardware does.

Pointers carry their argument's number in the upper 16 bits, which no user-space address has, so a
pointer that strays into another argument is found as well.

As a program, ``interpreted_memory.py SCRIPT ARGUMENTS`` runs a script under the check.
"""

import contextlib
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from triton.runtime import interpreter

from tiles.kernels.quick_interpreter import quick_interpreter

_SHIFT = np.uint64(48)
_ADDRESS = np.uint64((1 << 48) - 1)


class OutsideError(Exception):
    """A kernel touched memory outside its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Argument:
    """Where the elements of a tensor lie, behind the pointer that the kernel got."""

    name: str
    start: int  #: address of the first element, numbered
    itemsize: int
    dims: tuple[tuple[int, int], ...]  #: (stride, extent), innermost first, contiguous ones merged

    @property
    def size(self) -> int:
        """Bytes from the first element to behind the last."""
        return (sum(stride * (n - 1) for stride, n in self.dims) + 1) * self.itemsize

    @property
    def dense(self) -> bool:
        """True without gaps."""
        return not self.dims or (len(self.dims) == 1 and self.dims[0][0] == 1)

    def holds(self, offsets: np.ndarray, width: int) -> np.ndarray:
        """Which accesses of ``width`` bytes lie within elements, by their distance from the first.

        Args:
            offsets: int64 bytes.
        """
        inside: np.ndarray = (offsets >= 0) & (offsets + width <= self.size)
        if self.dense:
            return inside
        rest, within = np.divmod(offsets, self.itemsize)
        inside &= within + width <= self.itemsize
        for stride, n in reversed(self.dims):
            count = np.minimum(rest // stride, n - 1)
            rest = rest - count * stride
        return inside & (rest == 0)


def _dims(tensor: Any) -> tuple[tuple[int, int], ...]:
    dims: list[tuple[int, int]] = []
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, n in sorted((s, n) for s, n in pairs if n > 1 and s > 0):
        if dims and dims[-1][0] * dims[-1][1] == stride:
            dims[-1] = (dims[-1][0], dims[-1][1] * n)
        elif dims and dims[-1][0] * dims[-1][1] > stride:
            raise NotImplementedError(f"argument of strides {tensor.stride()}: elements interleave")
        else:
            dims.append((stride, n))
    return tuple(dims)


class _Launch:
    """The arguments of the kernel that runs."""

    def __init__(self, kernel: str, names: dict[int, str]) -> None:
        self.kernel = kernel
        self.names = names  #: argument by the identity of its tensor
        self.arguments: list[_Argument] = []

    def numbered(self, tensor: Any, pointer: np.ndarray) -> np.ndarray:
        """A pointer to a tensor, with a number of its own in the upper bits."""
        number = np.uint64(len(self.arguments) + 1)
        told = pointer | (number << _SHIFT)
        empty = tensor.numel() == 0
        argument = _Argument(
            name=self.names.get(id(tensor), "?"),
            start=int(told[0]),
            itemsize=0 if empty else tensor.element_size(),
            dims=() if empty else _dims(tensor),
        )
        self.arguments.append(argument)
        return told

    def check(self, verb: str, pointers: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
        """Plain addresses; raises where an unmasked one lies outside."""
        wanted = pointers if mask.all() else pointers[np.broadcast_to(mask, pointers.shape)]
        if wanted.size:
            low, high = int(wanted.min()), int(wanted.max())
            number = low >> int(_SHIFT)
            if not 1 <= number <= len(self.arguments):
                raise OutsideError(f"{self.kernel} {verb} through a pointer of no argument")
            argument = self.arguments[number - 1]
            near = argument.start <= low and high + width <= argument.start + argument.size
            if not (near and argument.dense):
                offsets = (wanted - np.uint64(argument.start)).view(np.int64)
                inside = argument.holds(offsets, width)
                if not inside.all():
                    self._refuse(verb, argument, offsets.ravel()[~inside.ravel()], width)
        return pointers & _ADDRESS

    def _refuse(self, verb: str, argument: _Argument, outside: np.ndarray, width: int) -> None:
        first = int(outside[0])
        if first < 0:
            place = f"{-first} B before the start of"
        elif first + width > argument.size:
            place = f"{first - argument.size} B behind the end of"
        else:
            place = f"at byte {first}, between the rows of"
        program = interpreter.interpreter_builder.grid_idx
        raise OutsideError(
            f"{self.kernel} {verb} {width} B {place} argument {argument.name} ({argument.size} B): "
            f"program {program}, {outside.size} elements outside"
        )


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Check all kernels that are interpreted within."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store = builder.create_masked_load, builder.create_masked_store
    cas, rmw = builder.create_atomic_cas, builder.create_atomic_rmw
    begin, convert = executor._init_args_hst, interpreter._implicit_cvt
    launch = _Launch("no kernel", {})

    def plain(verb: str, pointers: Any, mask: Any) -> Any:
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        # A descriptor's mask is a bare array, whose ``data`` is a view of its memory.
        every = np.ones(1, dtype=bool) if mask is None else np.asarray(mask)
        data = launch.check(verb, pointers.data, every, width)
        return interpreter.TensorHandle(data, pointers.dtype)

    def checked_begin(self: Any, positional: Any, keywords: Any) -> Any:
        nonlocal launch
        found, named = begin(self, positional, keywords)
        names = {}
        for name, value in (*zip(self.arg_names, found, strict=False), *named.items()):
            names[id(getattr(value, "base", value))] = name
        launch = _Launch(self.fn.__name__, names)
        return found, named

    def checked_convert(value: Any) -> Any:
        made = convert(value)
        if hasattr(value, "data_ptr"):
            made.handle.data = launch.numbered(value, made.handle.data)
        return made

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return load(self, plain("loads", pointers, mask.data), mask, *rest, **named)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return store(self, plain("stores", pointers, mask.data), value, mask, *rest)

    def checked_cas(self: Any, pointers: Any, *rest: Any) -> Any:
        return cas(self, plain("updates", pointers, None), *rest)

    def checked_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return rmw(self, op, plain("updates", pointers, mask.data), value, mask, *rest)

    with (
        mock.patch.object(builder, "create_masked_load", checked_load),
        mock.patch.object(builder, "create_masked_store", checked_store),
        mock.patch.object(builder, "create_atomic_cas", checked_cas),
        mock.patch.object(builder, "create_atomic_rmw", checked_rmw),
        mock.patch.object(executor, "_init_args_hst", checked_begin),
        # On the CPU it would copy every storage, used or not, onto itself.
        mock.patch.object(executor, "_restore_args_dev", return_value=None),
        mock.patch.object(interpreter, "_implicit_cvt", checked_convert),
    ):
        yield


if __name__ == "__main__":
    # The script finds its siblings and arguments as if it were run by itself.
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    with checked(), quick_interpreter():
        runpy.run_path(sys.argv[0], run_name="__main__")
