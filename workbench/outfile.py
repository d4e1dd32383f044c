"""A file that a verb writes: checked before the work, complete or not there at all afterwards."""

import contextlib
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tiles.intake import shown

__all__ = ["check_name", "check_outfile", "unwritable", "write_outfile"]


#: Unicode's categories of control characters, of bytes that are no UTF-8, and of line ends.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))


def check_name(path: str | Path) -> None:
    """Refuse a path that would break a message's line or steer the terminal it is printed on.

    Raises:
        ValueError: it holds control characters.
    """
    if any(unicodedata.category(character) in _UNPRINTABLE for character in str(path)):
        raise ValueError(f"{shown(str(path))}: holds control characters: choose another name")


@contextlib.contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Turn what the system says of a full disk or a closed folder into a caller's mistake.

    Raises:
        ValueError: writing failed; the message names the path and the next step.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ValueError(
            f"{path}: cannot be written: {reason}: free space or choose another output"
        ) from error


def check_outfile(path: Path) -> None:
    """Refuse what must not be replaced by a file, before any work is done for it.

    Raises:
        ValueError: a folder, a device or a pipe, or a name with control characters.
    """
    check_name(path)
    with unwritable(path):
        if path.is_dir():
            raise ValueError(f"{path}: is a folder: name a file in it")
        # Renaming a file over a device would remove the device.
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: is not a regular file: choose another output")


def write_outfile(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name and rename it; missing folders are made.

    Raises:
        ValueError: :func:`check_outfile` refuses the path, or it cannot be written; an older file
            is left as it was.
    """
    check_outfile(path)
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".workbench-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
            os.chmod(name, 0o644)  # mkstemp keeps others from reading; this is an ordinary file
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
