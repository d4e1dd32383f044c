"""Everything that the pages of a site are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.reporting.comparison import Compared
from workbench.reporting.site.changes import Changes
from workbench.reporting.site.contents import Unread
from workbench.reporting.site.findings import (
    CalibrationFound,
    ErrorFound,
    PackageFound,
    VerifyFound,
)
from workbench.reporting.site.studies import SiteStudy, Timing
from workbench.reporting.tradeoff import Tradeoff

__all__ = ["Gathered", "Product"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """The fastest kernel of a recipe on a shape, in one run."""

    run: str
    gpu: str
    compared: Compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A project folder, read: plain records, no run is kept as a whole."""

    project: str  #: the folder's name
    written: str  #: date and time in UTC, ISO 8601
    runs: Sequence[tuple[str, str]]  #: name and page of every run that was read
    studies: Sequence[SiteStudy]
    products: Sequence[Product]
    timings: Sequence[Timing]
    tradeoffs: Sequence[Tradeoff]
    packages: Sequence[PackageFound]
    calibrations: Sequence[CalibrationFound]
    errors: Sequence[ErrorFound]
    verified: Sequence[VerifyFound]
    unread: Sequence[Unread]
    changes: Changes

    @property
    def gpus(self) -> list[str]:
        """Names of the GPUs that studies are of, in the order of the runs."""
        return list(dict.fromkeys(study.gpu for study in self.studies))
