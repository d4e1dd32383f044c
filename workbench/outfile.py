"""A file that a verb writes: checked before the work, complete or not there at all afterwards."""

import contextlib
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from tiles.intake import shown
from tiles.regular_file import check_regular

__all__ = ["check_name", "check_outfile", "unwritable", "write_outfile"]


#: Unicode's categories of control characters, of bytes that are no UTF-8, and of line ends.
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))

#: How our files say what they are: JSON by its schema, a page by its generator.
_SCHEMA = re.compile(
    r'(?:"schema": ?|<meta name="generator" content=)"(tile-workbench/[a-z0-9-]+)/'
)
#: A T4 file names the packages of the measuring machine first.
_HEAD_BYTES = 65_536


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


def check_outfile(path: Path, schema: str) -> None:
    """Refuse what must not be replaced by a file, before any work is done for it.

    Args:
        schema: of what will be written, e.g. ``tile-workbench/report/1``; a file of that schema,
            whatever its version, and an empty one may be replaced.
    Raises:
        ValueError: a folder, a device or a pipe, a name with control characters, a file of another
            kind, a name that a run folder keeps its record under, or a place where no file can be
            made.
    """
    _check(path, schema.rpartition("/")[0])
    with unwritable(path):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        tempfile.TemporaryFile(prefix=".workbench-", dir=there).close()


def _check(path: Path, kind: str) -> None:
    check_name(path)
    with unwritable(path):
        if path.is_dir():
            raise ValueError(f"{path}: is a folder: name a file in it")
        check_regular(path)
        if _is_record(path):
            raise ValueError(f"{path}: the run's own record goes there: choose another output")
        if path.exists() and path.stat().st_size and _kind(_head(path)) != kind:
            raise ValueError(
                f"{path}: exists and holds no {kind}: choose another output or move it away"
            )


def _is_record(path: Path) -> bool:
    if not path.with_name("plan.json").exists():
        return False
    from tuning.run_files import is_run_file  # loads optuna, which most outputs can do without

    return is_run_file(path)


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES).decode("utf-8", "replace")


def _kind(text: str) -> str:
    """The schema that a text names first, without its version; "" when it names none of ours."""
    found = _SCHEMA.search(text, 0, _HEAD_BYTES)
    return found[1] if found else ""


def write_outfile(path: Path, text: str) -> None:
    """Write UTF-8 text under a temporary name and rename it; missing folders are made.

    Args:
        text: JSON or a page that names its schema, by which the next one may replace it.
    Raises:
        ValueError: :func:`check_outfile` refuses the path, or it cannot be written; an older file
            is left as it was.
    """
    _check(path, _kind(text))
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
