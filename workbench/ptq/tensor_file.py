"""Safetensors files, written tensor by tensor under a temporary name and renamed."""

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from tiles.intake import shown
from tiles.regular_file import check_regular
from workbench.checkpoint_header import SUFFIX, check_header
from workbench.outfile import check_name, unwritable

__all__ = ["RECORD", "Entry", "check_tensor_file", "read_tensors", "write_entries", "write_tensors"]

#: Under this name a file's metadata has our record of it, as JSON.
RECORD = "tile-workbench"
#: Longer headers are nobody's.
MAX_HEADER = 100_000_000
#: safetensors' names of torch's types.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor that is to be written."""

    name: str
    dtype: str  #: as safetensors spells it
    shape: tuple[int, ...]
    nbytes: int


def check_tensor_file(path: Path) -> None:
    """Refuse an output that is no file of tensors, before any work is done for it.

    Raises:
        ValueError: a folder, not a regular file, another suffix, a name with control characters, or
            a file that the workbench did not write.
    """
    check_name(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: tensors are written to a {SUFFIX} file: name it so")
    with unwritable(path):
        if path.is_dir():
            raise ValueError(f"{path}: is a folder: name a file in it")
        check_regular(path)
        if path.exists() and path.stat().st_size > 0 and not _ours(path):
            raise ValueError(
                f"{path}: was not written by the workbench and is left as it is: choose another "
                "output, or move it"
            )


def _ours(path: Path) -> bool:
    """Whether a file's header carries a record of the workbench's."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= MAX_HEADER else b""
    try:
        record = json.loads(json.loads(text)["__metadata__"][RECORD])
        return str(record["schema"]).startswith("tile-workbench/")
    except (KeyError, TypeError, ValueError):
        return False


def write_entries(
    path: Path,
    entries: Iterable[Entry],
    metadata: Mapping[str, str],
    produce: Callable[[Callable[[bytes], object]], None],
) -> None:
    """Write a file whose entries are known before their bytes are.

    Args:
        entries: in the order of their bytes.
        produce: called with a function that takes the bytes of all entries, in that order.
    Raises:
        ValueError: :func:`check_tensor_file` refuses the path, it cannot be written, or the bytes
            are not those of the entries; an older file is left as it was.
    """
    check_tensor_file(path)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        place = [end, end := end + entry.nbytes]
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": place,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begin at a multiple of 8 bytes
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".workbench-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(struct.pack("<Q", len(text)) + text)
                before = stream.tell()
                produce(stream.write)
                written = stream.tell() - before
            if written != end:
                raise ValueError(f"{path}: {written} bytes for entries of {end}")
            os.chmod(name, 0o644)  # mkstemp keeps others from reading; this is an ordinary file
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors of any device; those that share memory are written for each name.

    Raises:
        ValueError: as :func:`write_entries`, or a type that safetensors has no name for.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{path}: {shown(name)} is {tensor.dtype}, which no file holds")
    entries = [
        Entry(
            name=name,
            dtype=DTYPES[tensor.dtype],
            shape=tuple(tensor.shape),
            nbytes=tensor.numel() * tensor.element_size(),
        )
        for name, tensor in tensors.items()
    ]

    def produce(write: Callable[[bytes], object]) -> None:
        for tensor in tensors.values():
            write(bytes_of(tensor))

    write_entries(path, entries, metadata, produce)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor, row-major."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def read_tensors(
    path: Path, *, only_metadata: bool = False
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of a file.

    Raises:
        ValueError: it is damaged, or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    check_name(path)
    check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            names = [] if only_metadata else list(file.keys())
            return metadata, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: no safetensors file that can be read: {shown(str(error), 160)[1:-1]}: "
            "check that it is the file you meant and that it is complete"
        ) from error
