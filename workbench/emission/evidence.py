"""EVIDENCE.json: what was measured, where, how exactly, and the digest of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiles.kernels.closure import source_digest
from tiles.version import VERSION
from tuning.objective import Objective
from workbench.emission.functions import EMITTED
from workbench.emission.selection import Selection
from workbench.emission.winners import TunedEntry

__all__ = ["EVIDENCE", "NEVER_MEASURED", "SCHEMA", "digest", "digests", "evidence", "read_evidence"]

EVIDENCE = "EVIDENCE.json"
SCHEMA = "tile-workbench/evidence/1"
NEVER_MEASURED = "simulated, never measured"

_CACHES = frozenset({"__pycache__", ".pytest_cache"})
_TYPES = {
    "package": str,
    "version": str,
    "simulated": bool,
    "statement": str,
    "entries": list,
    "templates": dict,
    "files": dict,
}


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Digest by relative path of every file below ``folder`` but the evidence and ``dist/``.

    Caches, and what begins with a dot at the top, are what tests, editors and version control leave
    behind: none of it is installed, the wheel is.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        name = relative.as_posix()
        if name.startswith((".", "dist/")) or not _CACHES.isdisjoint(relative.parts):
            continue
        if path.is_symlink():
            raise ValueError(
                f"{folder}: {name} is a link, a package holds plain files: remove it or emit again"
            )
        if not path.is_file() and not path.is_dir():
            raise ValueError(
                f"{folder}: {name} is no plain file: remove it or emit the package again"
            )
        if path.is_file() and path.name != EVIDENCE:
            found[name] = digest(path.read_bytes())
    return found


def _entry(entry: TunedEntry) -> dict[str, Any]:
    measurement = entry.best.measurement
    figures: dict[str, Any] = {
        "time_us": measurement.time_us,
        "iqr_us": measurement.iqr_us,
        "samples": len(measurement.samples_us),
        "samples_us": list(measurement.samples_us),
        "timing": measurement.timing,
    }
    predicted: dict[str, Any] = {
        "time_us": entry.best.predicted_us,
        "low_us": entry.best.predicted_low_us,
        "high_us": entry.best.predicted_high_us,
    }
    searched: dict[str, Any] = {}
    if entry.study.objective is Objective.ENERGY:
        searched["objective"] = entry.study.objective.value
        predicted["energy_mj"] = entry.best.predicted_energy_mj
        energy = measurement.energy
        figures["energy"] = None if energy is None else energy.to_dict()
    environment = entry.study.environment
    key = {} if entry.key is None else {"key": entry.key}
    return {
        "kernel": entry.study.kernel,
        "source_sha256": source_digest(entry.kernel.template),
        "problem": str(entry.problem),
        "gpu": entry.study.gpu,
        "path": entry.path.value,
        "config_file": entry.file_name,
        **key,
        **searched,
        "config": entry.best.config.to_dict(),
        "simulated": entry.study.simulated,
        "predicted": predicted,
        # A measured and a simulated time never share a key.
        "measured": None if entry.study.simulated else figures,
        "simulation": figures if entry.study.simulated else None,
        "accuracy": None if measurement.accuracy is None else asdict(measurement.accuracy),
        "environment": None if environment is None else environment.to_dict(),
        "search": {
            "trials": len(entry.study.trials),
            "rejected_by_rule": dict(entry.study.rejected_by_rule),
        },
    }


def evidence(
    *,
    name: str,
    package_version: str,
    chosen: Selection,
    templates: Mapping[str, str],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """The content of EVIDENCE.json.

    Args:
        name: the package's name.
        package_version: its version.
        chosen: what ships of the run, and what does not.
        templates: kernel family by path of each file that was copied byte for byte.
        files: digest by path of every other file of the package.
    """
    simulated = [entry.study.simulated for entry in chosen.entries]
    rows = {"rows": [one.to_dict() for one in chosen.rows]} if chosen.rows else {}
    statement = "every entry was measured on the GPU that it names"
    if all(simulated):
        statement = f"{NEVER_MEASURED}: configurations were chosen by the cost model alone"
    elif any(simulated):
        statement = f"entries marked simulated are {NEVER_MEASURED}"
    return {
        "schema": SCHEMA,
        "package": name,
        "version": package_version,
        "workbench": VERSION,
        "simulated": any(simulated),
        "statement": statement,
        "entries": [_entry(entry) for entry in chosen.entries],
        **rows,
        "defaults": "configurations for untuned extents are conservative and were never measured",
        "not_emitted": [
            {"kernel": one.kernel, "problem": one.problem, "gpu": one.gpu, "reason": one.reason}
            for one in chosen.left
        ],
        "templates": {
            path: {"kernel": family, "sha256": files[path]} for path, family in templates.items()
        },
        "files": dict(files),
    }


def _is_entry(entry: object) -> bool:
    """Whether kernel, problem and configuration are there, of a family that is emitted."""
    return (
        isinstance(entry, dict)
        and str(entry.get("kernel")) in EMITTED
        and isinstance(entry.get("problem"), str)
        and isinstance(entry.get("config"), dict)
    )


def _has_types(data: Mapping[str, Any]) -> bool:
    """Whether everything that a reader relies on is there, and of its type."""
    if not all(isinstance(data.get(key), kind) for key, kind in _TYPES.items()):
        return False
    if not all(isinstance(value, str) for value in data["files"].values()):
        return False
    if not all(_is_entry(entry) for entry in data["entries"]):
        return False
    return all(
        isinstance(record, dict)
        and isinstance(record.get("kernel"), str)
        and isinstance(record.get("sha256"), str)
        for record in data["templates"].values()
    )


def read_evidence(text: str, where: str) -> dict[str, Any]:
    """Parse EVIDENCE.json.

    Args:
        text: its content.
        where: its path, for the message.
    Raises:
        ValueError: truncated, or not such a file.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged ({error}): emit the package again") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not _has_types(data):
        raise ValueError(f"{where} does not carry the schema {SCHEMA!r}: emit the package again")
    return data
