"""What a check of a folder found."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from workbench.deploy.rules import RULES, Effect

__all__ = ["LINT_SCHEMA", "Finding", "LintReport"]

LINT_SCHEMA = "tile-workbench/lint/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault in one place."""

    rule: str  #: a name of :data:`workbench.deploy.rules.RULES`
    path: PurePosixPath  #: in the folder; of a missing file, where it would be
    message: str  #: rule, value, next step
    fixable: bool = False
    rename: str | None = None  #: the name that the file should have, where that is the fix

    @property
    def effect(self) -> Effect:
        """What it does to a server."""
        return RULES[self.rule].effect

    def __str__(self) -> str:
        fix = " (--fix)" if self.fixable else ""
        return f"{self.path}: {self.effect.value}: {self.message} [{self.rule}]{fix}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "rule": self.rule,
            "effect": self.effect.value,
            "path": str(self.path),
            "message": self.message,
            "fixable": self.fixable,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """The outcome of a check."""

    files: int  #: tuned files that were looked at
    families: tuple[str, ...]
    findings: tuple[Finding, ...]  #: what is wrong now, after mending where that was asked for
    fixed: tuple[str, ...] = ()  #: a line for every file that was written
    lookups: tuple[int, int] | None = None  #: judged by the times of a run, and all that it has
    simulated: bool = False  #: whether those are the cost model's

    @property
    def summary(self) -> str:
        """One line."""
        kinds = f" ({', '.join(self.families)})" if self.families else ""
        found = "no findings" if not self.findings else f"{len(self.findings)} findings"
        line = f"{self.files} files{kinds}: {found}"
        if self.fixed:
            line += f", {len(self.fixed)} files mended"
        if self.lookups is not None:
            by = "simulated times" if self.simulated else "measurements"
            line += f"; {self.lookups[0]} of {self.lookups[1]} lookups judged by {by}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": LINT_SCHEMA,
            "files": self.files,
            "families": list(self.families),
            "findings": [finding.to_dict() for finding in self.findings],
            "fixed": list(self.fixed),
            "lookups": None
            if self.lookups is None
            else {
                "judged": self.lookups[0],
                "all": self.lookups[1],
                "simulated": self.simulated,
            },
        }
