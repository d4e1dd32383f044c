"""Faults of folders, of versions, and of files that belong together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tiles.intake import shown
from workbench.deploy.file_name import file_names, parse_version, parse_version_folder
from workbench.deploy.file_name import version_folder as folder_of
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.name_rules import right_name

__all__ = ["down_findings", "folder_findings", "pairs", "version_findings"]


def folder_findings(
    folders: Sequence[PurePosixPath], files: Sequence[ReadFile]
) -> Iterator[Finding]:
    """Version folders with names that SGLang cannot read, and files in the wrong kind of folder."""
    for folder in folders:
        if parse_version_folder(folder.name) is None:
            yield Finding(
                rule="folder.version",
                path=folder,
                message=f"folder {shown(folder.name)}: SGLang reads every triton_ folder as "
                "integers and falls back on none of them after this one, name it triton_X_Y_Z or "
                "move it away",
            )
    for file in files:
        version = file.found.version_folder
        if file.family.version_folder and version is None:
            yield Finding(
                rule="folder.unversioned",
                path=file.path,
                message="SGLang looks for experts in configs/triton_X_Y_Z alone: move it into the "
                "folder of the Triton that it was tuned with",
            )
        if not file.family.version_folder and version is not None:
            yield Finding(
                rule="folder.misplaced",
                path=file.path,
                message=f"{file.family.engine} looks for {file.family.name} in no triton_ folder: "
                "move it up",
            )


def version_findings(files: Iterable[ReadFile], triton: str) -> Iterator[Finding]:
    """Files that were tuned with another Triton than the one that runs.

    Args:
        triton: X.Y.Z of the server.
    """
    groups: dict[object, list[ReadFile]] = {}
    for file in files:
        groups.setdefault((file.found.root, file.family.name, right_name(file)), []).append(file)
    for members in groups.values():
        said = [file for file in members if file.triton is not None]
        if not said or any(_plain(file.triton) == parse_version(triton) for file in said):
            continue
        newest = max(said, key=lambda file: _plain(file.triton) or (0, 0, 0))
        where = (
            f"no file in {folder_of(triton)}, another version's is taken"
            if newest.family.version_folder
            else "nothing guards against it"
        )
        yield Finding(
            rule="version.other",
            path=newest.path,
            message=f"tuned with Triton {newest.triton}, {triton} runs ({where}): tune again",
        )


def _plain(version: str | None) -> tuple[int, int, int] | None:
    """The numbers of a version without its suffix, e.g. of ``3.6.0+git1a2b``."""
    return None if version is None else parse_version(version.partition("+")[0])


def pairs(files: Iterable[ReadFile]) -> Iterator[tuple[ReadFile, ReadFile | None]]:
    """Every second product's file, with the first product's."""
    files = list(files)
    first = {
        (file.found.root, file.found.version_folder, right_name(file)): file
        for file in files
        if not file.parsed.name.down
    }
    for file in files:
        if file.parsed.name.down:
            up = replace(right_name(file), down=False)
            yield file, first.get((file.found.root, file.found.version_folder, up))


def down_findings(files: Iterable[ReadFile]) -> Iterator[Finding]:
    """Second products whose rows do not go with the first's: both share one sort of tokens."""
    for down, up in pairs(files):
        if not down.family.down:
            continue  # named so all the same: a name that the engine does not ask for
        if up is None:
            name = file_names(down.family, replace(right_name(down), down=False))[0]
            yield Finding(
                rule="down.alone",
                path=down.path,
                message=f"{name} is not there, the first product's default decides BLOCK_SIZE_M: "
                "add it",
            )
            continue
        if not up.body.rows or not down.body.rows:
            continue
        ups, downs = up.tuned(), down.tuned()
        for m in sorted({m for m, _ in (*ups.rows, *downs.rows)}):
            (up_m, one), (down_m, two) = ups.row(m), downs.row(m)
            if one.block_m != two.block_m:
                yield Finding(
                    rule="down.block-m",
                    path=down.path,
                    message=f"M {m}: BLOCK_SIZE_M {two.block_m} (row {down_m}) is overwritten by "
                    f"{one.block_m} of the first product (row {up_m}): write pairs alike",
                    # Where rows of other keys meet, no single value is right.
                    fixable=up_m == down_m == m and not down.found.linked,
                )
