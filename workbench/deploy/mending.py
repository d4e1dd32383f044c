"""Mending a foreign folder: what was there stays beside it as ``.bak1``, ``.bak2``, ..."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from workbench.deploy.body import body_text
from workbench.deploy.file_name import file_names
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.folder_rules import pairs
from workbench.deploy.name_rules import right_name
from workbench.deploy.side_file import check_writable, place
from workbench.deploy.tuned import Entry
from workbench.outfile import unwritable

__all__ = ["mend"]


def mend(folder: Path, files: Sequence[ReadFile], findings: Sequence[Finding]) -> list[str]:
    """Mend what the findings say can be; a line for every file that was written.

    New content is written under temporary names first.  A file is backed up before another takes
    its place or it gets another name, and no name that is taken is written to.

    Raises:
        ValueError: the folder cannot be written; nothing was.
    """
    rows = _rows_of_pairs(files)
    texts: dict[PurePosixPath, bytes] = {}
    gone: list[PurePosixPath] = []  # files whose content or name changes
    lines: list[str] = []
    fixable: dict[PurePosixPath, list[Finding]] = {}
    for finding in findings:
        if finding.fixable:
            fixable.setdefault(finding.path, []).append(finding)
    for file in files:
        mine = fixable.get(file.path)
        if mine is None:
            continue
        path = file.path
        renames = {f.rename for f in mine if f.rename is not None}
        for name in renames:  # one at most: every finding of a name tells the same
            if not os.path.lexists(folder / path.parent / name):
                path = path.parent / name
        data = file.found.data
        if any(f.rename is None and f.rule != "name.twin" for f in mine) and file.body.whole:
            tuned = replace(file.tuned(), rows=rows.get(file.path, file.body.rows))
            data = body_text(file.family, tuned).encode()
        twins = []
        if any(f.rule == "name.twin" for f in mine):
            names = file_names(file.family, right_name(file))
            twins = [path.parent / name for name in names if name != path.name]
            twins = [twin for twin in twins if not os.path.lexists(folder / twin)]
        changed = path != file.path or data != file.found.data
        if changed:
            texts[path] = data
            gone.append(file.path)
        texts.update((twin, data) for twin in twins)
        if changed or twins:
            rules = ", ".join(dict.fromkeys(f.rule for f in mine))
            written = [path] * changed + twins
            lines.append(f"{file.path}: wrote {' and '.join(p.name for p in written)} ({rules})")
    for path in texts:
        check_writable((folder / path).parent)
    backups = [_backup(folder / path) for path in gone]
    try:
        place({folder / path: data for path, data in texts.items()})
    except BaseException:
        for path, backup in zip(gone, backups, strict=True):
            present = folder / path
            if present.exists() and present.read_bytes() == backup.read_bytes():
                backup.unlink()
        raise
    for path in gone:
        if path not in texts:
            with unwritable(folder / path):
                (folder / path).unlink()
    return lines


def _backup(path: Path) -> Path:
    """A second name, or a copy, of a file as it is; a name that is taken is passed over."""
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.bak{number}")
        with unwritable(backup):
            try:
                os.link(path, backup, follow_symlinks=False)
                return backup
            except FileExistsError:
                number += 1
            except OSError:  # a file system without links
                with path.open("rb") as source, backup.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
                return backup


def _rows_of_pairs(files: Sequence[ReadFile]) -> dict[PurePosixPath, tuple[tuple[int, Entry], ...]]:
    """Rows of second products with the BLOCK_SIZE_M that they are launched with."""
    found = {}
    for down, up in pairs(files):
        if up is not None:
            heights = {m: entry.block_m for m, entry in up.body.rows}
            found[down.path] = tuple(
                (m, replace(entry, block_m=heights.get(m, entry.block_m)))
                for m, entry in down.body.rows
            )
    return found
