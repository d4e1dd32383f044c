"""Writing into a folder of tuned files: all or nothing, and a side file that says whence.

Loaders open exact names alone, so ``tile-workbench.json`` is read by nobody but us.  It holds a
record for every file that we wrote, with the SHA-256 of its bytes: a file that has changed since,
or that was never ours, is foreign and not replaced.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiles.intake import read_bounded, shown
from workbench.deploy.scan import SIDE_FILE
from workbench.outfile import check_name, unwritable

__all__ = ["SIDE_SCHEMA", "check_writable", "place", "read_records", "write_folder"]

SIDE_SCHEMA = "tile-workbench/tuned-files/1"
_MAX_BYTES = 64_000_000


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of our side file, by the file's path in the folder; empty without one.

    Raises:
        ValueError: there is one that is not ours, or that cannot be read.
    """
    path = folder / SIDE_FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(read_bounded(path, _MAX_BYTES))
        files: dict[str, Any] = content["files"] if content["schema"] == SIDE_SCHEMA else {}
        good = content["schema"] == SIDE_SCHEMA and all(
            isinstance(record, dict) and isinstance(record.get("sha256"), str)
            for record in files.values()
        )
    except (KeyError, TypeError, RecursionError, ValueError) as error:
        raise ValueError(
            f"{path}: no side file of ours ({shown(str(error))}): move it away"
        ) from error
    if not good:
        raise ValueError(f"{path}: holds no {SIDE_SCHEMA}: move it away")
    return dict(files)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before anything is.

    Raises:
        ValueError: read only, no folder, or a link to elsewhere in its place.
    """
    check_name(folder)
    at = folder
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise ValueError(f"{at}: is no folder: choose another output")
    if not os.access(at, os.W_OK | os.X_OK):
        raise ValueError(f"{at}: cannot be written: read only: choose another output")


def write_folder(
    folder: Path, texts: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Write files and the side file: first all under temporary names, then renamed.

    Args:
        texts: content by the path in the folder.
        records: what the side file says of each, JSON-ready.
    Returns:
        The files, in order, without the side file.
    Raises:
        ValueError: a foreign file of that name is there, or the folder cannot be written; nothing
            was written.
    """
    check_writable(folder)
    known = read_records(folder) if folder.is_dir() else {}
    top = folder.resolve()
    for name, text in texts.items():
        path = folder / name
        if not path.resolve().is_relative_to(top) or path.is_symlink():
            raise ValueError(f"{path}: leads out of {folder}: remove the link")
        if path.parent != folder:
            check_writable(path.parent)
        if not path.exists():
            continue
        if not path.is_file():
            raise ValueError(f"{path}: is no regular file: move it away")
        held = digest(read_bounded(path, _MAX_BYTES))
        if held not in (known.get(name, {}).get("sha256"), digest(text.encode())):
            raise ValueError(
                f"{path}: is there and was not written by us, or was edited since: move it away, "
                "or choose another output"
            )
    files = known | {
        name: {"sha256": digest(text.encode())} | dict(records[name])
        for name, text in texts.items()
    }
    side = json.dumps(
        {"schema": SIDE_SCHEMA, "files": dict(sorted(files.items()))}, indent=1, allow_nan=False
    )
    place({folder / n: text.encode() for n, text in {**texts, SIDE_FILE: side + "\n"}.items()})
    return [folder / name for name in texts]


def place(contents: Mapping[Path, bytes]) -> None:
    """Write files under temporary names, then rename all; missing folders are made.

    Raises:
        ValueError: one cannot be written; none was, and folders that were made are gone.
    """
    staged: list[tuple[str, Path]] = []
    made: list[Path] = []
    kept: list[tuple[Path, Path | None]] = []  # what is replaced, under a second name
    try:
        for path, data in contents.items():
            with unwritable(path):
                _make(path.parent, made)
                handle, name = tempfile.mkstemp(prefix=".workbench-", dir=path.parent)
                staged.append((name, path))
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                # mkstemp keeps others from reading; a file that is replaced keeps its own mode.
                os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        for name, path in staged:
            with unwritable(path):
                kept.append((path, _second_name(path)))
                os.replace(name, path)
    except BaseException:
        for path, old in reversed(kept):
            _put_back(path, old)
        for name, _ in staged:
            Path(name).unlink(missing_ok=True)
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: something was renamed into it
                folder.rmdir()
        raise
    for _, old in kept:
        if old is not None:
            old.unlink()


def _second_name(path: Path) -> Path | None:
    """A temporary name of the bytes that a file has now; ``None`` where there is no file."""
    if not path.exists():
        return None
    handle, name = tempfile.mkstemp(prefix=".workbench-", dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(path.read_bytes())
    shutil.copymode(path, name)
    return Path(name)


def _put_back(path: Path, old: Path | None) -> None:
    """Undo a rename; where that fails too, the old bytes stay under their second name."""
    with contextlib.suppress(OSError):
        if old is None:
            path.unlink(missing_ok=True)
        else:
            os.replace(old, path)


def _make(folder: Path, made: list[Path]) -> None:
    if folder.is_dir():
        return
    _make(folder.parent, made)
    folder.mkdir()
    made.append(folder)
