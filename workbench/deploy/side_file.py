"""Writing into a folder of tuned files: all or nothing, and a side file that says whence.

Loaders open exact names alone, so ``tile-workbench.json`` is read by nobody but us.  It holds a
record for every file that we wrote, with the SHA-256 of its bytes: a file that has changed since,
or that was never ours, is foreign and not replaced.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tiles.intake import read_bounded, shown
from workbench.deploy.scan import SIDE_FILE
from workbench.outfile import check_name, unwritable

__all__ = ["SIDE_SCHEMA", "check_writable", "held", "place", "read_records", "write_folder"]

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
        content = json.loads(read_bounded(path, _MAX_BYTES), parse_constant=_no_constant)
    except (RecursionError, ValueError) as error:
        raise ValueError(
            f"{path}: no side file of ours ({shown(str(error))}): move it away"
        ) from error
    if not isinstance(content, dict) or content.get("schema") != SIDE_SCHEMA:
        raise ValueError(f"{path}: holds no {SIDE_SCHEMA}: move it away")
    files = content.get("files")
    if not isinstance(files, dict):
        raise ValueError(f"{path}: has no records of files: move it away")
    for name, record in files.items():
        if (fault := _fault_of(record)) is not None:
            raise ValueError(f"{path}: {shown(name)}: {fault}: move the side file away")
    return dict(files)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _fault_of(record: Any) -> str | None:
    """What a record has that none of ours has; ``None`` for one of ours."""
    if not isinstance(record, dict):
        return f"no record, but {shown(record)}"
    if not isinstance(record.get("sha256"), str):
        return "its record has no digest"
    if not isinstance(record.get("from", {}), dict):
        return f"'from' is {shown(record['from'])}"
    rows = record.get("rows", [])
    if not isinstance(rows, list):
        return f"'rows' is {shown(rows)}"
    for row in rows:
        m = row.get("m") if isinstance(row, dict) else None
        if type(m) is not int or m < 1:
            return f"a row has no M, {shown(row)}"
    return None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, with other processes of ours kept from writing to it.

    What is read of it inside is what is there until the block ends.  Folders that were made are
    gone again where the block fails.  A file system without locks holds nobody back.

    Raises:
        ValueError: it cannot be written.
    """
    check_writable(folder)
    made: list[Path] = []
    while True:
        with unwritable(folder):
            _make(folder, made)
            try:
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # whoever made it failed, and has removed it
                continue
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), folder.stat()):
                break
        os.close(fd)
    try:
        yield
    except BaseException:
        for one in reversed(made):
            with contextlib.suppress(OSError):  # not empty: something was renamed into it
                one.rmdir()
        raise
    finally:
        os.close(fd)


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

    The caller has the folder :func:`held`, from where it looked at what is there.

    Args:
        texts: content by the path in the folder.
        records: what the side file says of each, JSON-ready.
    Returns:
        The files, in order, without the side file.
    Raises:
        ValueError: a foreign file of that name is there, or the folder cannot be written; nothing
            was written.
    """
    known = read_records(folder)
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
        found = digest(read_bounded(path, _MAX_BYTES))
        if found not in (known.get(name, {}).get("sha256"), digest(text.encode())):
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
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # another process made it just now
    made.append(folder)
