"""The calibration file: JSON of one GPU, read back with what of it still fits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.calibration.record import Calibration, FamilyCalibration
from sim.calibration.sources import digest_of, kernel_files, model_digest
from sim.calibration.stored import family_from_dict, family_to_dict
from sim.calibration.unknowns import MACHINE_SIGMAS, RATES
from sim.gpu import Gpu
from sim.gpu_figures import check_figure, check_peak
from sim.parameters import TEMPLATES, Parameters
from tiles.intake import read_bounded, shown
from tiles.kernels import Kernel, kernels

__all__ = ["MAX_FILE_BYTES", "SCHEMA", "About", "calibration_text", "parse_calibration"]

SCHEMA = "tile-workbench/calibration/1"
MAX_FILE_BYTES = 2**24
#: Figures that microbenchmarks and fits find; launches on a stream are in no price.
MEASURABLE = frozenset(MACHINE_SIGMAS) | {"stream_launch_us"}
_UNFIT = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Where, when and with what a calibration was made; JSON-ready."""

    device: str  #: as the driver calls it
    driver: str
    versions: Mapping[str, str]
    made: str  #: date and time in UTC, ISO 8601
    simulated: bool  #: on a simulated machine: good for tests, never for predictions
    measured: Mapping[str, Mapping[str, Any]]  #: figure to value, unit, spread
    microbenchmarks: Sequence[Mapping[str, Any]]  #: every one with its status and reason
    timings: Mapping[str, Any]  #: how many were planned, measured, failed, left out


def calibration_text(
    calibration: Calibration, about: About, spreads: Mapping[str, float], used: Sequence[Kernel]
) -> str:
    """The file's text.

    Args:
        spreads: standard deviations in log by figure, or ``FAMILY.PARAMETER``.
        used: the families that were measured.
    """
    templates = {}
    families = kernels() | {one.name: one for one in used}
    for name, record in calibration.templates.items():
        template = families[name].template
        files = kernel_files(template)
        templates[name] = {
            "files": list(files),
            "source_sha256": digest_of(template.parent, files),
            "parameters": record.to_dict(),
            "spreads": {p: spreads.get(f"{name}.{p}") for p in record.names()},
        }
    fitted = {
        name: {"value": value, "spread": spreads.get(name)}
        for name, value in calibration.figures.items()
    }
    content = {
        "schema": SCHEMA,
        "gpu": calibration.base.name,
        "gpu_sha256": hashlib.sha256(calibration.base.text.encode()).hexdigest(),
        "title": calibration.title,
        "device": about.device,
        "driver": about.driver,
        "versions": dict(about.versions),
        "made": about.made,
        "simulated": about.simulated,
        "model_sha256": model_digest(),
        "measured": {name: dict(one) for name, one in about.measured.items()},
        "fitted": fitted,
        "templates": templates,
        "families": {name: family_to_dict(one) for name, one in calibration.families.items()},
        "microbenchmarks": [dict(one) for one in about.microbenchmarks],
        "timings": dict(about.timings),
    }
    return json.dumps(content, allow_nan=False, indent=1) + "\n"


def parse_calibration(path: Path, gpu: Gpu, *, rehearsal: bool = True) -> Calibration:
    """Read a calibration for a GPU; what does not fit this version any more is left out and noted.

    Args:
        rehearsal: whether one of a simulated machine will do; it is noted.

    Raises:
        ValueError: unreadable, not a calibration, of another GPU, or a simulated machine's where
            that will not do; one line.
    """
    try:
        data = read_bounded(path, MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"calibration {error}") from error
    where = f"calibration {path}"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}): calibrate anew") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else content
        raise ValueError(f"{where}: schema {shown(found)}, need {SCHEMA!r}: calibrate anew")
    if content.get("gpu") != gpu.name:
        raise ValueError(
            f"{where}: of the gpu {shown(content.get('gpu'))}, not {gpu.name}: name its own, or "
            "--calibration none"
        )
    if content.get("gpu_sha256") != hashlib.sha256(gpu.text.encode()).hexdigest():
        raise ValueError(
            f"{where}: the GPU file of {gpu.name} has changed since: calibrate anew, or "
            "--calibration none"
        )
    if content.get("simulated") is not False and not rehearsal:
        raise ValueError(
            f"{where}: of a simulated machine: calibrate on the GPU, or name the file with "
            "--calibration to rehearse"
        )
    try:
        return _read(content, gpu, data.decode())
    except _UNFIT as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where}: {reason or 'out of order'}: calibrate anew") from error


def _read(content: Mapping[str, Any], gpu: Gpu, text: str) -> Calibration:
    notes: list[str] = []
    if content["simulated"] is not False:
        notes.append("of a simulated machine, for rehearsals: its predictions mean nothing")
    figures = {name: _figure(name, one, gpu) for name, one in content["measured"].items()}
    templates: dict[str, Parameters] = {}
    families: dict[str, FamilyCalibration] = {}
    if content["model_sha256"] != model_digest():
        notes.append("the cost model has changed since: only measured figures are used")
    else:
        figures |= {name: _figure(name, one, gpu) for name, one in content["fitted"].items()}
        templates, families = _current(content, notes)
    title = content["title"]
    if not isinstance(title, str) or not title.isprintable():
        raise ValueError(f"title {shown(title)} is no text of one line")
    return Calibration(
        base=gpu,
        figures=figures,
        templates=templates,
        families=families,
        title=title,
        notes=tuple(notes),
        text=text,
    )


def _figure(name: str, entry: Mapping[str, Any], gpu: Gpu) -> float:
    value = entry["value"]
    owner, dot, element = name.partition(".")
    if (owner == RATES) is not bool(dot):
        raise ValueError(f"unknown figure {shown(name)}: rates are {RATES}.ELEMENT, no others have")
    if dot and element not in gpu.tensor_flop_per_clk:
        raise ValueError(f"{shown(name)}: {gpu.name} does not multiply that element")
    check_figure(owner, value)
    if not dot and owner not in MEASURABLE:
        raise ValueError(f"{owner}: no measurement finds it: it stands in the GPU file")
    check_peak(gpu, owner, value)
    return float(value)


def _current(
    content: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, Parameters], dict[str, FamilyCalibration]]:
    """Parameters and families of the kernels whose source is what it was."""
    templates: dict[str, Parameters] = {}
    families: dict[str, FamilyCalibration] = {}
    known = kernels()
    changed: list[str] = []
    for name, one in content["templates"].items():
        if name not in known or name not in TEMPLATES:
            changed.append(name)
            continue
        files = [str(file) for file in one["files"]]
        if any("/" in file or file.startswith(".") for file in files):
            raise ValueError(f"{shown(files)}: a kernel's files lie in one folder")
        if digest_of(known[name].template.parent, files) != one["source_sha256"]:
            changed.append(name)
            continue
        templates[name] = TEMPLATES[name].from_dict(one["parameters"])
        if name in content["families"]:
            families[name] = family_from_dict(content["families"][name])
    if changed:
        notes.append(
            f"{', '.join(changed)} changed since: parameters and intervals are the defaults'"
        )
    return templates, families
