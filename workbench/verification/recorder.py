"""Turns what a check does, exceptions included, into a line of the report."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Recorder"]

Report = Callable[[dict[str, Any]], None]


class Recorder:
    """One check: ``with Recorder(report, name) as check: check.passed(...)``.

    A check that raises has failed: the package under test may raise anything, and the checks after
    it still run.
    """

    def __init__(self, report: Report, name: str) -> None:
        self._report = report
        self._name = name
        self._status = "passed"
        self._detail = ""

    def expect(self, condition: bool, detail: str) -> None:
        """Fail with ``detail`` unless the condition holds; the first failure is kept."""
        if not condition and self._status == "passed":
            self._status, self._detail = "failed", detail

    def note(self, detail: str) -> None:
        """What a passed check says."""
        if self._status == "passed":
            self._detail = detail

    def skip(self, reason: str) -> None:
        """The check does not apply."""
        self._status, self._detail = "skipped", reason

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None:
            first = (str(error).strip().splitlines() or [""])[0]
            self._status, self._detail = "failed", f"{type(error).__name__}: {first[:300]}"
        self._report({"check": self._name, "status": self._status, "detail": self._detail})
        return True
