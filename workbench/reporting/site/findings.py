"""Packages, calibrations, errors and verifications: what the site tells of each, as read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tiles.intake import read_bounded
from workbench.emission.evidence import EVIDENCE, read_evidence

__all__ = [
    "CalibrationFound",
    "ErrorFound",
    "PackageFound",
    "VerifyFound",
    "read_calibration",
    "read_error",
    "read_package",
    "read_verify",
]

MAX_BYTES = 2**26
#: What a file of another shape than ours raises when it is read.
_UNFIT = (KeyError, TypeError, AttributeError, IndexError, OverflowError)
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFound:
    """An emitted package."""

    name: str  #: its folder
    package: str  #: import name
    version: str
    entries: int  #: tuned ones
    statement: str  #: what its evidence says of itself


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFound:
    """What a GPU taught the cost model."""

    name: str  #: its file
    gpu: str
    device: str
    driver: str
    made: str  #: UTC, ISO 8601
    simulated: bool  #: of a simulated machine: a rehearsal
    #: family, timings, mean error before, and on left-out shapes after the fit (log)
    families: tuple[tuple[str, int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFound:
    """Numerical errors: of recipes on simulated data, or of formats on a checkpoint."""

    name: str  #: its file
    of: str  #: "products" or "weights"
    #: recipe or format, data or "", SQNR in dB; None where nothing is lost
    rows: tuple[tuple[str, str, float | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyFound:
    """How a package's verification ended."""

    name: str  #: its file
    package: str
    device: str  #: "cuda" or "cpu"
    passed: bool
    counts: Mapping[str, int]  #: checks by outcome


def _json(path: Path, parse: Callable[[Mapping[str, Any]], _Found]) -> _Found:
    data = read_bounded(path, MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cut off or not JSON: {error}") from error
    try:
        return parse(content)
    except _UNFIT as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"not as this version writes it: {missing}") from error


def read_package(folder: Path, name: str) -> PackageFound:
    """Read a package's evidence; its digests are what ``workbench verify`` looks at.

    Raises:
        ValueError: damaged, or of another version.
    """
    data = read_bounded(folder / EVIDENCE, MAX_BYTES)
    content = read_evidence(data.decode("utf-8", "replace"), EVIDENCE)
    return PackageFound(
        name=name,
        package=content["package"],
        version=content["version"],
        entries=len(content["entries"]),
        statement=content["statement"],
    )


def read_calibration(path: Path, name: str) -> CalibrationFound:
    """Read a calibration file as it describes itself.

    Raises:
        ValueError: damaged, or of another version.
    """

    def parse(content: Mapping[str, Any]) -> CalibrationFound:
        return CalibrationFound(
            name=name,
            gpu=str(content["gpu"]),
            device=str(content["device"]),
            driver=str(content["driver"]),
            made=str(content["made"]),
            simulated=content["simulated"] is not False,
            families=tuple(
                (family, int(one["rows"]), float(one["prior_error"]), float(one["physics_error"]))
                for family, one in content["families"].items()
            ),
        )

    return _json(path, parse)


def read_error(path: Path, name: str) -> ErrorFound:
    """Read an answer of ``workbench error --json``.

    Raises:
        ValueError: damaged, or of another version.
    """

    def parse(content: Mapping[str, Any]) -> ErrorFound:
        if "weights" in content:
            rows = [(one["format"], "", one["sqnr_db"]) for one in content["weights"]["ranking"]]
        else:
            rows = [(one["recipe"], one["data"], one["sqnr_db"]) for one in content["products"]]
        of = "weights" if "weights" in content else "products"
        return ErrorFound(
            name=name,
            of=of,
            rows=tuple(
                (str(fmt), str(data), None if sqnr is None else float(sqnr))
                for fmt, data, sqnr in rows
            ),
        )

    return _json(path, parse)


def read_verify(path: Path, name: str) -> VerifyFound:
    """Read a report of ``workbench verify --output``.

    Raises:
        ValueError: damaged, or of another version.
    """

    def parse(content: Mapping[str, Any]) -> VerifyFound:
        outcomes = [str(check["status"]) for check in content["checks"]]
        return VerifyFound(
            name=name,
            package=str(content["package"]),
            device=str(content["device"]),
            passed=content["passed"] is True,
            counts={outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        )

    return _json(path, parse)
