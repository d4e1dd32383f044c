"""The checks of ``quantize`` and ``quantize_cuda.quantize``."""

import importlib
from typing import ClassVar

from tiles.problems import Quantize
from workbench.verification.function_checks import FunctionChecks, Seen, Subject
from workbench.verification.quantize_checks import (
    QuantizeEntry,
    check_quantize,
    check_quantize_defaults,
)
from workbench.verification.recorder import Recorder, Report

__all__ = ["CudaQuantizeFunctionChecks", "QuantizeFunctionChecks"]


class QuantizeFunctionChecks(FunctionChecks):
    """Codes and scales of torch tensors."""

    function: ClassVar[str] = "quantize"
    module: ClassVar[str] = "_quantize"

    def _entries(self, subject: Subject) -> list[QuantizeEntry]:
        found = []
        for tuned in subject.entries(self.function):
            assert isinstance(tuned.problem, Quantize)
            entry = QuantizeEntry(
                kernel=tuned.kernel,
                problem=tuned.problem,
                config=tuned.config,
                package=subject.package,
                device=subject.device,
                seed=subject.seed,
            )
            found.append(entry)
        return found

    def _open(self, subject: Subject) -> None:
        importlib.import_module(f"{subject.package.__name__}.{self.module}")

    def check(self, subject: Subject, report: Report) -> None:
        self._open(subject)
        seen = Seen(subject.device)
        defaults: set[tuple[str, str]] = set()
        for entry in self._entries(subject):
            formats = (str(entry.problem.target), entry.problem.source)
            name = str(entry.problem)
            before = seen.before(entry.kernel, entry.config, formats, name)
            check_quantize(entry, report, seen=before)
            if formats not in defaults:
                defaults.add(formats)
                check_quantize_defaults(entry, report)

    def time(self, subject: Subject, report: Report) -> None:
        from workbench.verification.rivals import time_quantize

        timed = self._entries(subject)
        with Recorder(report, "timing of quantisations") as check:
            for entry in timed:
                time_quantize(entry, report)
            check.note(f"{len(timed)} Triton entries beside a copy of their input")


class CudaQuantizeFunctionChecks(QuantizeFunctionChecks):
    """Codes and scales of CuPy arrays."""

    function: ClassVar[str] = "quantize_cuda.quantize"
    module: ClassVar[str] = "quantize_cuda"

    def _open(self, subject: Subject) -> None:
        if subject.device == "cuda":
            super()._open(subject)

    def time(self, subject: Subject, report: Report) -> None:
        return None
