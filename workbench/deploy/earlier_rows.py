"""Rows that stand in a file of ours already, and stay when other M of it are written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiles.intake import read_bounded
from workbench.deploy.body import read_body
from workbench.deploy.families import ConfigFamily
from workbench.deploy.measured import LeftOut
from workbench.deploy.scan import MAX_BYTES
from workbench.deploy.side_file import digest, read_records
from workbench.deploy.tuned import Entry, TunedFile, TunedName

__all__ = ["EarlierRow", "earlier_rows", "rows_that_stay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRow:
    """A row that an earlier run wrote."""

    m: int
    entry: Entry
    record: dict[str, Any]  #: of the side file
    obstacle: str = ""  #: why it cannot stay; "" when it does


def earlier_rows(
    path: Path, record: Mapping[str, Any] | None, family: ConfigFamily, file: TunedFile
) -> list[EarlierRow]:
    """The rows of a file whose M are not written anew; none where it is not as we wrote it.

    Args:
        path: of the file.
        record: what the side file says of it.
        family: that it belongs to.
        file: what is going to be written.
    """
    if record is None or not path.is_file() or record.get("family") != family.name:
        return []
    data = read_bounded(path, MAX_BYTES)
    if digest(data) != record["sha256"]:
        return []
    body = read_body(data, family, file.name)
    obstacle = ""
    if family.version_key and body.triton != file.triton:
        obstacle = (
            f"written with Triton {body.triton or 'of no known version'}, the others of its file "
            f"now with {file.triton or 'none that is known'}"
        )
    told = {row["m"]: row for row in record.get("rows", ())}
    run = {"run": record["run"]} if "run" in record else {}
    new = {m for m, _ in file.rows}
    return [
        EarlierRow(m=m, entry=entry, record=run | told.get(m, {"m": m}), obstacle=obstacle)
        for m, entry in body.rows
        if m not in new
    ]


def rows_that_stay(
    family: ConfigFamily,
    output: Path,
    files: Mapping[str, TunedFile],
    left: list[LeftOut],
    *,
    chosen: bool,
) -> dict[str, list[EarlierRow]]:
    """The rows of our own files in the output that stay, by path.

    Args:
        family: of the files.
        output: folder.
        files: what is going to be written, by path in it.
        left: gets what does not stay, with the reason.
        chosen: keys were chosen by what lookup loses: further ones would serve M of theirs.
    """
    known = read_records(output)
    found = {
        path: earlier_rows(output / path, known.get(path), family, file)
        for path, file in files.items()
    }
    # Both products of experts are launched with one BLOCK_SIZE_M: they keep the same M.
    pairs: dict[tuple[TunedName, str | None], list[str]] = {}
    for path, file in files.items():
        pairs.setdefault((replace(file.name, down=False), file.triton), []).append(path)
    kept: dict[str, list[EarlierRow]] = {}
    for paths in pairs.values():
        both = len({files[path].name.down for path in paths}) > 1
        common = set.intersection(*({one.m for one in found[path]} for path in paths))
        for path in paths:
            kept[path] = []
            for one in found[path]:
                why = one.obstacle
                if chosen:
                    why = why or "the keys were chosen anew for what lookup may lose"
                if both and one.m not in common:
                    why = why or "the other product's file has no row for it"
                if why:
                    left.append(LeftOut(study=f"M {one.m} of {path}, there before", reason=why))
                else:
                    kept[path].append(one)
    return kept
