"""What verification asks of a function that a package can have."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from tiles.problems import Problem, parse_problem
from workbench.emission.functions import function_of
from workbench.verification.recorder import Report

__all__ = ["FunctionChecks", "Seen", "Subject", "Tuned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A tuned entry as the evidence lists it."""

    kernel: str
    problem: Problem
    config: Mapping[str, int | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked: an installed package, imported, and where it runs."""

    package: ModuleType
    evidence: Mapping[str, Any]
    device: str  #: "cuda", or "cpu" (Triton's interpreter)
    seed: int

    def entries(self, function: str) -> list[Tuned]:
        """The tuned entries of a function, by its name in :class:`Function`."""
        found = []
        for entry in self.evidence["entries"]:
            problem = parse_problem(entry["problem"])
            owner = function_of(entry["kernel"], problem)
            if owner is not None and owner.name == function:
                found.append(Tuned(kernel=entry["kernel"], problem=problem, config=entry["config"]))
        return found


class Seen:
    """Remembers what was checked where every entry is cut down to the same small shapes."""

    def __init__(self, device: str) -> None:
        self._first: dict[tuple[object, ...], str] | None = {} if device == "cpu" else None

    def before(
        self, kind: object, config: Mapping[str, int | bool], formats: tuple[str, ...], name: str
    ) -> str:
        """The earlier entry of the same kind, formats and configuration, or ''.

        Args:
            kind: what tells families or entries apart that share formats.
            config: the tuned configuration.
            formats: those of the entry.
            name: of the entry.
        """
        if self._first is None:
            return ""
        key = (kind, formats, *sorted(config.items()))
        first = self._first.setdefault(key, name)
        return "" if first == name else first


class FunctionChecks(ABC):
    """The checks of one function; see :mod:`workbench.verification.functions`."""

    @abstractmethod
    def check(self, subject: Subject, report: Report) -> None:
        """Check answers of every tuned entry and default."""

    def time(self, subject: Subject, report: Report) -> None:
        """On a GPU: time every tuned entry beside what people would use instead."""
        return None
