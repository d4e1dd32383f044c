"""Text that Python packages carry: their modules with docstrings, their Markdown and plain files.

Nothing is downloaded.  Files come in the order of the SHA-256 of their paths within the folder, so
that a limit takes some of every package, and one that comes or goes moves no other.  What repeats
an earlier file but for white space, is no UTF-8, or is a table rather than text is left out.  A
file's content alone decides whether it is held out.
"""

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SUFFIXES", "Text", "TextCard", "gather", "package_folders"]

Bytes = npt.NDArray[np.uint8]

SUFFIXES = (".py", ".pyi", ".md", ".rst", ".txt")
#: Behind every file.
SEPARATOR = b"\0"
SHORTEST, LONGEST = 256, 400_000
#: Above these a file is a table or machine-made: share of digits, bytes of a line in the mean.
DIGITS, LINE = 0.2, 160.0
#: Of 256 values of a digest's first byte; 5 % of the files are held out.
HELD_OUT = 13
_FOREIGN = ("__pycache__", "site-packages", "dist-packages", "node_modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCard:
    """What a text is."""

    digest: str  #: SHA-256 of both parts
    train_bytes: int
    held_out_bytes: int
    train_files: int
    held_out_files: int
    bytes_of: dict[str, int]  #: by suffix
    left_out: dict[str, int]  #: files, by the reason

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Bytes to train on and others to be judged by."""

    train: Bytes
    held_out: Bytes
    card: TextCard


def package_folders() -> tuple[Path, ...]:
    """Where this Python's packages and its standard library lie."""
    names = ("purelib", "platlib", "stdlib")
    return tuple(dict.fromkeys(Path(sysconfig.get_path(name)).resolve() for name in names))


def gather(folders: Sequence[Path], *, limit: int, least: int) -> Text:
    """Read the text of folders.

    Args:
        limit: bytes; the file that reaches it is the last.
        least: bytes.
    Raises:
        ValueError: a folder is missing, or there is less text in them, or one part of none.
    """
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    seen: set[bytes] = set()
    bytes_of: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    total = 0
    for path in _ordered(folders):
        if total >= limit:
            break
        content = _content(path)
        reason = _reason(content)
        if not reason:
            key = hashlib.sha256(b" ".join(content.split())).digest()
            reason = "repeats another" if key in seen else ""
        if reason:
            left_out[reason] += 1
            continue
        seen.add(key)
        parts[key[0] < HELD_OUT].append(content + SEPARATOR)
        bytes_of[path.suffix] += len(content) + 1
        total += len(content) + 1
    where = ", ".join(map(str, folders))
    if total < least:
        raise ValueError(
            f"{where}: {total} bytes of text, {least} are asked for: name further folders with "
            "--text, or ask for less with --least-megabytes"
        )
    if not parts[False] or not parts[True]:
        raise ValueError(f"{where}: too few files to hold some out: name further folders")
    train, held_out = (b"".join(parts[kept]) for kept in (False, True))
    card = TextCard(
        digest=hashlib.sha256(len(train).to_bytes(8, "little") + train + held_out).hexdigest(),
        train_bytes=len(train),
        held_out_bytes=len(held_out),
        train_files=len(parts[False]),
        held_out_files=len(parts[True]),
        bytes_of=dict(sorted(bytes_of.items())),
        left_out=dict(sorted(left_out.items())),
    )
    return Text(
        train=np.frombuffer(train, np.uint8), held_out=np.frombuffer(held_out, np.uint8), card=card
    )


def _ordered(folders: Sequence[Path]) -> list[Path]:
    found = []
    for number, folder in enumerate(folders):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder: name one that is there")
        for path in _files(folder):
            place = path.relative_to(folder).as_posix()
            drawn = hashlib.sha256(place.encode("utf-8", "surrogatepass")).digest()
            found.append((drawn, number, path))
    return [path for _, _, path in sorted(found)]


def _files(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if name not in _FOREIGN and not name.startswith(".")]
        for name in names:
            if name.endswith(SUFFIXES):
                yield Path(here, name)


def _content(path: Path) -> bytes:
    """Bytes of a file; none of one that cannot be read or is a link that leads nowhere."""
    try:
        return path.read_bytes() if path.stat().st_size <= LONGEST else b"\xff"
    except OSError:
        return b""


def _reason(content: bytes) -> str:
    """Why a file is left out; "" where it is not."""
    if content == b"\xff":
        return "too long"
    if len(content) < SHORTEST:
        return "too short"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "no UTF-8"
    if SEPARATOR in content:
        return "no text"
    digits = sum(content.count(digit) for digit in b"0123456789")
    if digits > DIGITS * len(content) or len(content) > LINE * (content.count(b"\n") + 1):
        return "a table"
    return ""
