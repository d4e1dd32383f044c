"""The checks of ``quantize``, and of ``quantize_cuda.quantize`` beside it."""

import importlib
from dataclasses import replace
from typing import ClassVar

from tiles.problems import Quantize
from workbench.verification.function_checks import FunctionChecks, Seen, Subject
from workbench.verification.quantize_checks import (
    check_quantize,
    check_quantize_defaults,
    check_quantize_operator,
)
from workbench.verification.quantize_entry import CUDA, QuantizeEntry
from workbench.verification.recorder import Recorder, Report

__all__ = ["QuantizeFunctionChecks"]


class QuantizeFunctionChecks(FunctionChecks):
    """Codes and scales of torch tensors, and of CuPy arrays where the kernel is CUDA C++."""

    function: ClassVar[str] = "quantize"

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

    def check(self, subject: Subject, report: Report) -> None:
        importlib.import_module(f"{subject.package.__name__}._quantize")
        on_gpu = subject.device == "cuda"
        seen = Seen(subject.device)
        defaults: set[tuple[str, str, bool]] = set()
        for torch_entry in self._entries(subject):
            cuda = torch_entry.kernel == CUDA
            entries = [torch_entry, replace(torch_entry, on_cupy=True)] if cuda else [torch_entry]
            for entry in entries:
                if entry.on_cupy and on_gpu:
                    importlib.import_module(f"{subject.package.__name__}.quantize_cuda")
                formats = (str(entry.problem.target), entry.problem.source)
                kind = (entry.kernel, entry.on_cupy)
                before = seen.before(kind, entry.config, formats, str(entry.problem))
                check_quantize(entry, report, seen=before)
                if (*formats, entry.on_cupy) not in defaults:
                    defaults.add((*formats, entry.on_cupy))
                    check_quantize_defaults(entry, report)
                    if not entry.on_cupy:
                        check_quantize_operator(entry, report)

    def time(self, subject: Subject, report: Report) -> None:
        from workbench.verification.rivals import time_quantize

        timed = self._entries(subject)
        with Recorder(report, "timing of quantisations") as check:
            for entry in timed:
                time_quantize(entry, report)
            check.note(f"{len(timed)} entries beside a copy of their input")
