"""Converting tuned files from one engine's family to another's.

Name, folder, blank, version key, the H200 merge and the count of int4 change, entries do not.  What
a family has no place for (a device's variant that vLLM merges, a version's suffix) stands in the
side file of the output, and a conversion back takes it from there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tiles.intake import shown
from workbench.deploy.body import body_text
from workbench.deploy.families import FAMILIES, ConfigFamily, family_named
from workbench.deploy.file_name import check_device, file_names, parse_version, version_folder
from workbench.deploy.folder import ReadFile, sort_out
from workbench.deploy.scan import scan
from workbench.deploy.side_file import digest, held, read_records, write_folder
from workbench.deploy.tile_rules import scale_obstacle
from workbench.deploy.tuned import TunedFile

__all__ = ["CONVERT_SCHEMA", "Converted", "NotConverted", "convert"]

CONVERT_SCHEMA = "tile-workbench/convert/1"
#: The family that asks for every H200 by one name.
_H200 = FAMILIES["vllm-moe"]
#: Faults that leave no doubt about what was meant.
_TOLERATED = frozenset(
    ("body.order", "entry.type", "json.duplicate", "json.encoding", "version.key", "version.value")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotConverted:
    """A file that the other family has no place for."""

    path: PurePosixPath
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: not converted: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The outcome of :func:`convert`."""

    files: tuple[Path, ...]
    sources: int  #: files that they were made of
    left_out: tuple[NotConverted, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": CONVERT_SCHEMA,
            "files": [str(path) for path in self.files],
            "sources": self.sources,
            "not_converted": [{"path": str(n.path), "reason": n.reason} for n in self.left_out],
        }


def convert(
    folder: str | Path,
    to: str,
    output: str | Path,
    *,
    family: str | None = None,
    device: str | None = None,
    triton: str | None = None,
) -> Converted:
    """Write a folder's tuned files as another family has them.

    Args:
        folder: of tuned files, or above them.
        to: a name of :data:`workbench.deploy.families.FAMILIES`.
        output: another folder; files of other origin in it are never replaced.
        family: of the files; by default told from folders and names.
        device: the H200 that vLLM's ``NVIDIA_H200`` of experts stands for, e.g. NVIDIA H200 NVL.
        triton: X.Y.Z of files that do not say with which Triton they were tuned.

    Raises:
        ValueError: broken JSON, links that lead out, and whatever else leaves in doubt what a file
            means; nothing can be converted; or the output refuses it.  Nothing is written then.
    """
    target = family_named(to)
    chosen = None if family is None else family_named(family)
    if device is not None:
        check_device(device)
        if _H200.device(device) != "NVIDIA_H200":
            raise ValueError(
                f"--device {shown(device)}: says which H200 vLLM's NVIDIA_H200 stands for, and has "
                "that word, e.g. NVIDIA H200 NVL"
            )
    if triton is not None and parse_version(triton) is None:
        raise ValueError(f"--triton {shown(triton)}: write three numbers, X.Y.Z")
    source, into = Path(folder), Path(output)
    if source.resolve() == into.resolve():
        raise ValueError(f"{into}: is the folder that is read: choose another output")
    scanned = scan(source)
    for unsafe in scanned.unsafe:
        raise ValueError(f"{source / unsafe.path}: {unsafe.message} [{unsafe.rule}]")
    files, unknown = sort_out(scanned, source, chosen)
    for file in files:
        _check(source, file)
    left = [NotConverted(path=u.found.path, reason=u.message) for u in unknown]
    records = read_records(source.resolve())
    texts: dict[str, str] = {}
    notes: dict[str, dict[str, Any]] = {}
    origin: dict[str, ReadFile] = {}
    for file in _newest_first(files):
        record = records.get(str(file.path), {})
        if record.get("sha256") != digest(file.found.data):
            record = {}  # edited since: it says nothing of this file
        known = record.get("from", {})
        try:
            tuned = _tuned(file, target, device, triton, known)
            _check_scales(target, tuned)
            text = body_text(target, tuned)
            paths = _paths(target, tuned)
        except ValueError as error:
            left.append(NotConverted(path=file.path, reason=str(error)))
            continue
        before = origin.get(paths[0])
        if before is not None:
            if texts[paths[0]] != text:
                reason = f"{before.path} becomes {paths[0]} with other entries"
                left.append(NotConverted(path=file.path, reason=reason))
            continue
        for path in paths:
            texts[path], origin[path] = text, file
            notes[path] = {
                "family": target.name,
                # Where the rows come from, as the entries themselves do not change.
                **{key: record[key] for key in ("run", "rows", "keys") if key in record},
                "from": {
                    "family": file.family.name,
                    "path": str(file.path),
                    "device": file.parsed.name.device,
                    "triton": file.triton,
                },
            }
    if not texts:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        why = f"{left[0]}{more}" if left else f"{source} holds no tuned files"
        raise ValueError(f"nothing to convert to {to}: {why}")
    with held(into):
        written = write_folder(into, texts, notes)
    sources = len({file.path for file in origin.values()})
    return Converted(files=tuple(written), sources=sources, left_out=tuple(left))


def _check(folder: Path, file: ReadFile) -> None:
    for fault in file.body.faults:
        if not (fault.mended and fault.rule in _TOLERATED) and fault.rule != "version.value":
            raise ValueError(
                f"{folder / file.path}: {fault.message} [{fault.rule}]; `workbench lint` lists all "
                "faults, --fix mends some"
            )


def _check_scales(target: ConfigFamily, file: TunedFile) -> None:
    """Refuse what one engine launches with a smaller K-step and the other as it stands."""
    for m, entry in file.rows:
        found = scale_obstacle(target, file.name, entry)
        if found is not None and found[0] == "tile.scale-k":
            raise ValueError(f"M {m}: {found[1]}")


def _newest_first(files: Iterable[ReadFile]) -> list[ReadFile]:
    """Files that could have one name come in the order in which they are taken."""

    def version(file: ReadFile) -> tuple[int, int, int]:
        return parse_version((file.triton or "").partition("+")[0]) or (0, 0, 0)

    return sorted(files, key=lambda f: (tuple(-n for n in version(f)), len(f.parsed.name.device)))


def _tuned(
    file: ReadFile,
    target: ConfigFamily,
    device: str | None,
    triton: str | None,
    known: dict[str, Any],
) -> TunedFile:
    """The neutral form, with what only a side file or the caller knows."""
    tuned = file.tuned()
    name, version = tuned.name, tuned.triton or triton
    if known.get("family") == target.name:  # the way back
        if isinstance(known.get("device"), str):
            check_device(known["device"])
            name = replace(name, device=known["device"])
        version = known.get("triton") if isinstance(known.get("triton"), str) else None
        if target.version_folder:
            version = version or tuned.triton or triton
    elif device is not None and file.family.merges_h200 and name.device == "NVIDIA_H200":
        name = replace(name, device="_".join(device.replace("/", " ").split()))
    name = replace(name, device=target.device(name.device))
    if (reason := target.obstacle(name)) is not None:
        raise ValueError(reason)
    if target.version_folder and version is None:
        raise ValueError(
            f"{target.engine} keeps these in a folder of a Triton version, and the file does not "
            "say which: add --triton X.Y.Z"
        )
    return replace(tuned, name=name, triton=version)


def _paths(family: ConfigFamily, file: TunedFile) -> list[str]:
    folder = PurePosixPath()
    if family.version_folder:
        assert file.triton is not None
        folder = PurePosixPath(version_folder(file.triton.partition("+")[0]))
    return [str(folder / name) for name in file_names(family, file.name)]
