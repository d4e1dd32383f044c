"""What verification answers with."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from workbench.outfile import write_outfile

__all__ = ["SCHEMA", "Check", "Outcome", "RivalTiming", "VerifyReport"]

SCHEMA = "tile-workbench/verify/1"


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"  #: it ran and holds
    FAILED = "failed"  #: it ran and does not hold
    SKIPPED = "skipped"  #: it could not run, or does not apply; the detail says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check."""

    name: str
    status: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalTiming:
    """Measured time of the package, or of something that does the same product, on one shape."""

    problem: str  #: the tuned entry, or the shape that rivals share, e.g. "gemm:16x4096x4096"
    rival: str  #: "this package", "torch.matmul bf16", "torch._scaled_mm row", ...
    time_us: float | None  #: median; ``None`` when it refused the shape
    iqr_us: float | None = None
    samples_us: tuple[float, ...] = ()
    timing: str = ""  #: rule by which it was timed
    refused: str = ""  #: why it did not run
    sm_clock_mhz: int | None = None  #: while it ran back to back, just after it was timed
    note: str = ""  #: what it does otherwise than the package


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The outcome of a verification."""

    package: str
    version: str
    path: str
    device: str  #: "cuda", or "cpu" (Triton's interpreter)
    statement: str  #: what the evidence says of itself, e.g. "simulated, never measured: ..."
    seed: int  #: of the random inputs
    environment: Mapping[str, Any]  #: GPU, driver, versions
    checks: tuple[Check, ...]
    rivals: tuple[RivalTiming, ...]  #: measured in this verification; empty without a GPU
    not_checked: tuple[str, ...]  #: what this device could not check

    @property
    def passed(self) -> bool:
        """True when no check failed."""
        return not any(check.status is Outcome.FAILED for check in self.checks)

    def count(self, status: Outcome) -> int:
        """Number of checks that ended so."""
        return sum(check.status is status for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "environment": dict(self.environment),
            "checks": [
                {"name": c.name, "status": c.status.value, "detail": c.detail} for c in self.checks
            ],
            "passed": self.passed,
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, complete or not at all.

        Raises:
            ValueError: it cannot be written.
        """
        write_outfile(path, json.dumps(self.to_dict(), indent=1) + "\n")
