"""The header of a safetensors file, looked at before the library opens it."""

import contextlib
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

from tiles.intake import shown

__all__ = ["MAX_HEADER_BYTES", "SUFFIX", "check_header"]

SUFFIX = ".safetensors"
#: Of a header and of an index; a model of 60 000 tensors has 10 MB of either.
MAX_HEADER_BYTES = 2**25
#: More than any file has bytes.
MAX_ELEMENTS = 2**62
MAX_DIGITS = 24

#: Bits an element, by safetensors' names.
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("BOOL", "I8", "U8"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def check_header(path: Path) -> None:
    """Refuse what the library would wait for, take gigabytes for, or refuse without a name.

    Raises:
        ValueError: not a regular file, cut, or an entry that does not fit the file; the message
            names the file, the tensor and the rule.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError(
                f"{path}: not a regular file: give a {SUFFIX} file or a folder of them"
            )
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(8)
            if len(head) < 8:
                raise ValueError(
                    f"{path}: {size} bytes are no {SUFFIX} file: check that it is complete"
                )
            (length,) = struct.unpack("<Q", head)
            if length > size - 8:
                raise ValueError(
                    f"{path}: the header takes {length} bytes, the file has {size}: "
                    f"check that it is a {SUFFIX} file and complete"
                )
            if length > MAX_HEADER_BYTES:
                raise ValueError(
                    f"{path}: the header takes {length} bytes, at most {MAX_HEADER_BYTES} are "
                    "read: check that it is the file you meant"
                )
            text = stream.read(length)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}): check the path") from error
    # What is no JSON is told when the library opens the file, and what it alone knows of types.
    with contextlib.suppress(UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        found = json.loads(
            text, object_pairs_hook=lambda pairs: _unique(path, pairs), parse_int=_integer
        )
        if isinstance(found, dict):
            found.pop("__metadata__", None)
            _check_entries(path, found, size - 8 - length)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{path}: {shown(twice)} stands twice in the header: repair the file")
    return found


def _check_entries(path: Path, entries: dict[str, Any], data_bytes: int) -> None:
    places: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        why = _entry_mistake(entry, data_bytes)
        if why:
            raise ValueError(f"{path}: tensor {shown(name)}: {why}: repair the file")
        places.append((*entry["data_offsets"], name))
    end, before = 0, ""
    for start, stop, name in sorted(places):
        if start != end:
            raise ValueError(
                f"{path}: tensor {shown(name)}: data from byte {start} on, where {end} follows "
                f"{shown(before) if before else 'the header'}: repair the file"
            )
        end, before = stop, name
    if end != data_bytes and before:
        raise ValueError(
            f"{path}: tensor {shown(before)}: the last one ends at byte {end} of {data_bytes} of "
            "data: check that the file is complete"
        )


def _entry_mistake(entry: Any, data_bytes: int) -> str:
    """What is wrong with an entry by itself; empty when nothing."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return "an entry holds dtype, shape and data_offsets"
    shape, offsets = entry["shape"], entry["data_offsets"]
    elements = _elements(shape) if _extents(shape) else -1
    if not 0 <= elements <= MAX_ELEMENTS:
        return (
            f"shape {shown(shape)}: extents are integers of at least 0, whose product is at most "
            f"{MAX_ELEMENTS}"
        )
    if not _extents(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        return (
            f"data_offsets {shown(offsets)}: two ascending integers within the {data_bytes} bytes "
            "of data"
        )
    bits = BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    size = offsets[1] - offsets[0]
    if bits is not None and elements * bits != 8 * size:
        return f"{entry['dtype']} of shape {shown(shape)} takes no {size} bytes"
    return ""


def _integer(text: str) -> int:
    """An integer; what is beyond any extent or offset, and costly to read, becomes negative."""
    return int(text) if len(text) <= MAX_DIGITS else -1


def _elements(shape: list[int]) -> int:
    """Product of the extents, or more than ``MAX_ELEMENTS`` as soon as that is certain."""
    count = 0 if 0 in shape else 1
    for extent in shape:
        count *= extent
        if count > MAX_ELEMENTS:
            break
    return count


def _extents(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value
    )
