"""What a foreign folder holds: its .json files, read under limits, links not followed out of it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tiles.intake import shown
from workbench.outfile import check_name

__all__ = ["SIDE_FILE", "FoundFile", "Scan", "Unsafe", "scan"]

#: Where our own files say where they come from; no loader opens it.
SIDE_FILE = "tile-workbench.json"
MAX_FILES = 20_000
MAX_DEPTH = 8
#: Tuned files have a few thousand bytes.
MAX_BYTES = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A .json file of the folder."""

    path: PurePosixPath  #: in the folder
    data: bytes
    linked: bool  #: a link to a file of the folder: read, never written

    @property
    def version_folder(self) -> str | None:
        """The ``triton_...`` folder that it lies in."""
        parent = self.path.parent.name
        return parent if parent.startswith("triton_") else None

    @property
    def root(self) -> PurePosixPath:
        """The folder that a loader is pointed at: above the version's."""
        parent = self.path.parent
        return parent if self.version_folder is None else parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsafe:
    """Something that was not looked into."""

    path: PurePosixPath
    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A folder's content."""

    files: tuple[FoundFile, ...]
    #: Folders whose names begin with ``triton_``, empty ones too: SGLang reads all their names.
    version_folders: tuple[PurePosixPath, ...]
    unsafe: tuple[Unsafe, ...]


def scan(folder: Path) -> Scan:
    """List and read a folder's .json files, hidden folders and our side files left out.

    Raises:
        ValueError: no folder, it cannot be read, or it holds far more than tuned files.
    """
    check_name(folder)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: {what}: give a folder of tuned files")
    top = folder.resolve()
    found: list[FoundFile] = []
    folders: list[PurePosixPath] = []
    unsafe: list[Unsafe] = []

    def refuse(error: OSError) -> None:
        raise ValueError(
            f"{error.filename}: cannot be read ({error.strerror}): check the path"
        ) from error

    for at, inner, names in os.walk(top, onerror=refuse):
        here = PurePosixPath(Path(at).relative_to(top).as_posix())
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        folders += [here / name for name in inner if name.startswith("triton_")]
        for name in list(inner):
            problem = _unsafe(Path(at) / name, top)
            if problem is not None:
                unsafe.append(Unsafe(path=here / name, rule=problem[0], message=problem[1]))
            if problem is not None or (Path(at) / name).is_symlink():
                inner.remove(name)
        if len(here.parts) >= MAX_DEPTH and inner:
            raise ValueError(
                f"{folder}: folders lie deeper than {MAX_DEPTH}: give the folder of tuned files"
            )
        for name in sorted(names):
            if not name.endswith(".json") or name == SIDE_FILE or name.startswith(".workbench-"):
                continue
            taken = _read(Path(at) / name, here / name, top)
            if isinstance(taken, Unsafe):
                unsafe.append(taken)
            else:
                found.append(taken)
            if len(found) + len(unsafe) > MAX_FILES:
                raise ValueError(
                    f"{folder}: more than {MAX_FILES} .json files: give a folder of tuned files"
                )
    return Scan(files=tuple(found), version_folders=tuple(folders), unsafe=tuple(unsafe))


def _read(file: Path, path: PurePosixPath, top: Path) -> FoundFile | Unsafe:
    problem = _unsafe(file, top)
    if problem is not None:
        return Unsafe(path=path, rule=problem[0], message=problem[1])
    try:
        # Not to be kept waiting by a pipe that was put there since it was looked at.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return Unsafe(path=path, rule="path.kind", message="no regular file: remove it")
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Unsafe(path=path, rule="path.closed", message=f"{reason}: check its permissions")
    if len(data) > MAX_BYTES:
        return Unsafe(
            path=path,
            rule="path.size",
            message=f"more than {MAX_BYTES} bytes, tuned files have a few thousand: not read",
        )
    return FoundFile(path=path, data=data, linked=file.is_symlink())


def _unsafe(file: Path, top: Path) -> tuple[str, str] | None:
    """(rule, message) of what must not be opened."""
    name = file.name
    if ".." in name or not name.isprintable():
        return ("path.dots", f"{shown(name)}: two dots or control characters: rename it")
    if file.is_symlink():
        try:
            inside = file.resolve(strict=True).is_relative_to(top)
        except (OSError, RuntimeError):
            return ("path.link", "a link that leads nowhere: remove it")
        if not inside:
            return ("path.link", "a link that leads out of the folder: copy the file in")
    if not file.is_dir() and not file.is_file():
        return ("path.kind", "no regular file: remove it")
    if file.is_dir() and name.endswith(".json"):
        return ("path.kind", "a folder with the name of a file: rename it")
    return None
