"""Tensors of safetensors files, one at a time: a model's weights never lie in memory together.

The format: eight bytes with the length of a JSON header, which has type, shape and place of each
tensor; then the data.  Nothing in a file is executed, and nothing beyond its end is read.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUFFIX = ".safetensors"
INDEX = ".safetensors.index.json"
#: Of a header; a model of 60 000 tensors has 10 MB.
MAX_HEADER_BYTES = 2**25
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  #: byte of the file
    stop: int


class Checkpoint:
    """What safetensors files hold, by name.

    Args:
        path: a ``.safetensors`` file, an index of several, or a folder of either.
    Raises:
        ValueError: no such file, cut, damaged, or an index that leads out of its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, _Place] = {}
        for file in _files(self.path):
            for name, place in _header(file).items():
                if name in self._places:
                    raise ValueError(f"{file}: {name} stands in another file too: keep one of them")
                self._places[name] = place

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Look whether a tensor is there as it is needed, reading no data.

        Raises:
            ValueError: missing, of another shape, or no bf16, fp16 or fp32.
        """
        place = self._places.get(name)
        if place is None:
            raise ValueError(
                f"{self.path} has no tensor {name!r}: give the checkpoint of this very model, or "
                "name the layer in keep"
            )
        if place.shape != tuple(shape):
            raise ValueError(
                f"{self.path}: {name} has shape {place.shape}, the model's is {tuple(shape)}: give "
                "the checkpoint of this very model"
            )
        if place.dtype not in DTYPES:
            raise ValueError(
                f"{self.path}: {name} holds {place.dtype}, weights are read from "
                f"{', '.join(DTYPES)}: give the checkpoint before it was quantised"
            )

    def read(self, name: str) -> Tensor:
        """A tensor on the host.

        Raises:
            ValueError: it cannot be read, or the file has become shorter.
        """
        place = self._places[name]
        size = place.stop - place.start
        data = bytearray(size)
        try:
            with place.path.open("rb") as stream:
                stream.seek(place.start)
                read = stream.readinto(data)
        except OSError as error:
            raise ValueError(f"{place.path}: cannot be read ({error.strerror})") from error
        if read != size:
            raise ValueError(f"{place.path}: {name} is cut off: check that the file is complete")
        dtype = DTYPES[place.dtype]
        if not size:
            return torch.empty(place.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).view(place.shape)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        indices = sorted(path.glob(f"*{INDEX}"))
        if len(indices) == 1:
            return _files(indices[0])
        found = sorted(path.glob(f"*{SUFFIX}"))
        if indices or not found:
            raise ValueError(f"{path} holds {len(indices)} indices and {len(found)} {SUFFIX} files")
        return found
    if not path.name.endswith(INDEX):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: no index of {SUFFIX} files ({type(error).__name__})") from None
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{path}: {name!r} leads out of the folder: write a file name alone")
    return [path.parent / name for name in names]


def _header(path: Path) -> dict[str, _Place]:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError(f"{path}: no {SUFFIX} file, or not a complete one: fetch it again")
            text = stream.read(length)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        return {name: _place(path, entry, 8 + length, size) for name, entry in entries.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: its header is damaged ({error}): fetch it again") from None


def _place(path: Path, entry: Mapping[str, Any], data: int, size: int) -> _Place:
    shape = tuple(map(int, entry["shape"]))
    start, stop = (data + int(offset) for offset in entry["data_offsets"])
    dtype = DTYPES.get(entry["dtype"])
    wanted = None if dtype is None else math.prod(shape) * dtype.itemsize
    if not data <= start <= stop <= size or min(shape, default=0) < 0:
        raise ValueError("data beyond the end of the file")
    if wanted is not None and wanted != stop - start:
        raise ValueError(f"{entry['dtype']} of shape {shape} in {stop - start} bytes")
    return _Place(path=path, dtype=str(entry["dtype"]), shape=shape, start=start, stop=stop)
