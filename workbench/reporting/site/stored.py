"""The site's own JSON: which files are its own, and what the next one is compared with."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tiles.intake import read_bounded, shown
from tuning.run_files import is_run_file

if TYPE_CHECKING:
    from workbench.reporting.site.studies import SiteStudy

__all__ = ["SCHEMA", "SITE_FILE", "Previous", "read_previous", "site_json"]

SCHEMA = "tile-workbench/site/1"
SITE_FILE = "site.json"
MAX_BYTES = 2**28
_ELSEWHERE = "move it away, or choose another --output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """The site that is there: when it was written, and what stood in it."""

    written: str  #: date and time in UTC, ISO 8601
    studies: "tuple[SiteStudy, ...]"


def site_json(written: str, files: Sequence[str], studies: "Sequence[SiteStudy]") -> str:
    """The text of ``site.json``.

    Args:
        written: date and time in UTC, ISO 8601.
        files: everything else that the site consists of, relative to it.
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "written": written,
        "files": sorted(files),
        "studies": [study.to_dict() for study in studies],
    }
    return json.dumps(content, allow_nan=False, indent=1) + "\n"


def read_previous(out: Path) -> Previous | None:
    """The site in a folder, or ``None`` where there is no folder yet or an empty one.

    Raises:
        ValueError: what is there is not a site of ours, or holds what is not of it, and so is not
            replaced.
    """
    if is_run_file(out):
        raise ValueError(f"{out}: the run's own record goes there: choose another --output")
    if not os.path.lexists(out):
        return None
    if out.is_symlink():
        raise ValueError(f"{out}: is a link: {_ELSEWHERE}")
    if not out.is_dir():
        raise ValueError(f"{out}: is not a folder, as a site is: {_ELSEWHERE}")
    if not any(out.iterdir()):
        return None
    path = out / SITE_FILE
    if not os.path.lexists(path):  # asked before a walk, which may be one over a whole disk
        raise ValueError(f"{out}: holds no site, there is no {SITE_FILE}: {_ELSEWHERE}")
    previous, own = _read(path)
    foreign = sorted(set(_files(out)) - own - {SITE_FILE})
    if foreign:
        raise ValueError(f"{out}: {shown(foreign[0])} is not of the site: {_ELSEWHERE}")
    return previous


def _files(folder: Path) -> Iterator[str]:
    """Everything below a folder that is not a folder with something in it."""
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        place = Path(parent).relative_to(folder)
        yield from ((place / name).as_posix() for name in files)
        for name in folders:
            inside = Path(parent) / name
            if inside.is_symlink() or not any(inside.iterdir()):
                yield (place / name).as_posix()


def _unreadable(error: OSError) -> None:
    raise ValueError(f"{error.filename}: cannot be read: {error.strerror}: {_ELSEWHERE}")


def _read(path: Path) -> tuple[Previous, set[str]]:
    from workbench.reporting.site.studies import SiteStudy

    if path.is_symlink():
        raise ValueError(f"{path}: is a link, not a site's own file: {_ELSEWHERE}")
    data = read_bounded(path, MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cut off or not JSON ({error}): {_ELSEWHERE}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else content
        raise ValueError(f"{path}: schema {shown(found)}, need {SCHEMA!r}: {_ELSEWHERE}")
    files, written, studies = (content.get(key) for key in ("files", "written", "studies"))
    if not (
        isinstance(written, str)
        and isinstance(studies, list)
        and isinstance(files, list)
        and all(isinstance(file, str) for file in files)
    ):
        raise ValueError(f"{path}: files, written or studies are out of order: {_ELSEWHERE}")
    try:
        read = tuple(SiteStudy.from_dict(study) for study in studies)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {_ELSEWHERE}") from error
    return Previous(written=written, studies=read), {str(PurePosixPath(one)) for one in files}
