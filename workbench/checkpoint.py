"""Checkpoints in safetensors files: what they hold, and slices of it in bounded memory."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiles.intake import shown
from workbench.checkpoint_header import check_header
from workbench.outfile import check_name
from workbench.shards import shards
from workbench.stored_scales import SCALE_SUFFIXES, scale_blocks, times_scales

__all__ = ["Checkpoint", "StoredTensor"]

F32 = NDArray[np.float32]

MAX_DIMENSIONS = 8
#: Least K of a stack of matrices; kernels of convolutions are smaller along an axis.
MIN_DEPTH = 32
#: A mapping's pages count as this process's memory until the file is closed: it is opened anew
#: after this many bytes.
MAPPED_BYTES = 2**27

#: Bits an element, by safetensors' names of the types that are read; the rest are skipped.
FLOAT_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """An entry of a checkpoint.  ``name`` comes from the file: escape it before showing it."""

    name: str
    dtype: str  #: as safetensors spells it
    shape: tuple[int, ...]
    file: Path
    scales: "StoredTensor | None" = None  #: that its codes are multiplied by
    scales_of: str = ""  #: the tensor whose scales these are

    @property
    def stacked(self) -> bool:
        """True for a stack of matrices, [experts, N, K]; their rows follow each other.

        A last extent below ``MIN_DEPTH`` is that of a convolution's kernel along one axis, whose
        weights are read as (out, rest) like those of more axes.
        """
        return len(self.shape) == 3 and self.shape[2] >= MIN_DEPTH

    @property
    def rows(self) -> int:
        """Rows of the matrix that it is read as: output channels, of every expert in a stack."""
        return self.shape[0] * self.shape[1] if self.stacked else self.shape[0]

    @property
    def cols(self) -> int:
        """Columns of the matrix that it is read as, along K."""
        return math.prod(self.shape[2:] if self.stacked else self.shape[1:])

    @property
    def kind(self) -> str:
        """Type and extents, ``BF16 4096x4096``, and the matrix that others are read as."""
        more = "x..." if len(self.shape) > MAX_DIMENSIONS else ""
        text = f"{self.dtype} {'x'.join(map(str, self.shape[:MAX_DIMENSIONS]))}{more}".rstrip()
        if len(self.shape) > 2 and not self.refusal:
            text += f" as {self.rows}x{self.cols}"
        if self.scales is not None:
            text += f" x scales {'x'.join(map(str, self.scales.shape)) or '1'}"
        return text

    @property
    def note(self) -> str:
        """What its numbers may lack; empty when nothing."""
        if self.refusal or self.scales is not None or FLOAT_BITS[self.dtype] > 8:
            return ""
        suffixes = " or ".join(SCALE_SUFFIXES)
        return f"codes as they are stored: no scales named with {suffixes} lie beside them"

    @property
    def refusal(self) -> str:
        """Why it is no weight matrix of floating-point numbers; empty when it is one."""
        if self.scales_of:
            return "scales of another tensor"
        if self.dtype not in FLOAT_BITS:
            return f"{self.dtype}: not floating-point numbers of 8 to 64 bits"
        if 0 in self.shape:
            return "empty"
        if len(self.shape) < 2:
            return f"{len(self.shape)}-dimensional: no matrix (a norm, a bias or a scale)"
        if len(self.shape) > MAX_DIMENSIONS:
            return f"{len(self.shape)}-dimensional: at most {MAX_DIMENSIONS} are read as a matrix"
        return ""


class Checkpoint:
    """The tensors of one or more safetensors files, in natural order of their names.

    Args:
        path: a ``.safetensors`` file, its ``.index.json``, or a folder of either.
    Raises:
        ValueError: missing, not a regular file, damaged, or a name that stands twice; the message
            names the file and the rule.
    """

    def __init__(self, path: Path) -> None:
        check_name(path)
        self.path = path
        self.files = shards(path)
        found: dict[str, StoredTensor] = {}
        for file in self.files:
            for tensor in _entries(file):
                if tensor.name in found:
                    raise ValueError(
                        f"{file}: tensor {shown(tensor.name)} stands in "
                        f"{found[tensor.name].file.name} too: keep one of them"
                    )
                found[tensor.name] = tensor
        _match_scales(found)
        self.tensors: Sequence[StoredTensor] = sorted(found.values(), key=_natural)
        if not found:
            raise ValueError(f"{path}: holds no tensors: check that it is the file you meant")

    def slices(self, tensor: StoredTensor, rows: int) -> Iterator[F32]:
        """Consecutive slices of ``rows`` rows as (rows, cols) float32, the last one ragged.

        Codes beside scales are multiplied by them.

        Raises:
            ValueError: the file changed or cannot be read any more.
        """
        first = 0
        scales, block = self._scales(tensor)
        for x in self._stored(tensor, rows):
            yield x if scales is None else times_scales(x, scales, block, first)
            first += len(x)

    def _scales(self, tensor: StoredTensor) -> tuple[F32 | None, tuple[int, int]]:
        import torch

        if tensor.scales is None:
            return None, (1, 1)
        with _opened(tensor.scales.file) as file:
            scales = file.get_tensor(tensor.scales.name).to(torch.float32).numpy()
        block = scale_blocks(tensor.rows, tensor.cols, scales.shape)
        assert block is not None  # a condition of the match
        return scales.reshape(-(-tensor.rows // block[0]), -1), block

    def _stored(self, tensor: StoredTensor, rows: int) -> Iterator[F32]:
        step = max(1, MAPPED_BYTES * 8 // (FLOAT_BITS[tensor.dtype] * tensor.cols * rows)) * rows
        for start in range(0, tensor.rows, step):
            with _opened(tensor.file) as file:
                for first in range(start, min(start + step, tensor.rows), rows):
                    yield _slice(file, tensor, first, min(first + rows, tensor.rows))


def _match_scales(found: dict[str, StoredTensor]) -> None:
    """Put 8-bit codes and the scales that are named after them together."""
    for name, tensor in list(found.items()):
        if tensor.refusal or FLOAT_BITS[tensor.dtype] > 8:
            continue
        for suffix in SCALE_SUFFIXES:
            scales = found.get(name + suffix)
            if scales is None or FLOAT_BITS.get(scales.dtype, 0) < 16:
                continue
            if scale_blocks(tensor.rows, tensor.cols, scales.shape) is not None:
                found[name] = replace(tensor, scales=scales)
                found[scales.name] = replace(scales, scales_of=name)
                break


def _slice(file: Any, tensor: StoredTensor, start: int, stop: int) -> F32:
    """(stop - start, cols) rows of the matrix that a tensor is read as."""
    import torch

    stored = file.get_slice(tensor.name)
    matrix: F32
    if not tensor.stacked:
        part = stored[start:stop]
        matrix = part.to(torch.float32, copy=True).reshape(stop - start, -1).numpy()
        return matrix
    matrix = np.empty((stop - start, tensor.cols), np.float32)
    high = tensor.shape[1]
    for which in range(start // high, -(-stop // high)):
        first, last = max(start, which * high), min(stop, (which + 1) * high)
        part = stored[which : which + 1, first - which * high : last - which * high]
        matrix[first - start : last - start] = part[0].to(torch.float32).numpy()
    return matrix


def _natural(tensor: StoredTensor) -> list[tuple[int, str]]:
    """``layers.2`` before ``layers.10``."""
    parts = re.split(r"([0-9]{1,18})", tensor.name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(
            f"{path}: no safetensors file that can be read: {shown(reason, 160)[1:-1]}: "
            "check that it is the file you meant and that it is complete"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}): check the path") from error


def _entries(path: Path) -> Iterator[StoredTensor]:
    check_header(path)
    with _opened(path) as file:
        for name in file.keys():
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            yield StoredTensor(name=name, dtype=part.get_dtype(), shape=shape, file=path)
