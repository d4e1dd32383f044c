"""Checks of a torch function whose workload in :mod:`tiles.kernels` knows the right answer.

A function's checks answer a few questions: which small problems stand for a tuned one, what its
operands are, how its package is called and how an answer is judged.  What is asked with them is the
same for all: the configuration that a call takes, random operands, tails of the tuned tile, values
that break careless kernels, extents that nothing was tuned for, every default, the operator's
registration, and on a GPU ``torch.compile`` and a CUDA graph.
"""

import contextlib
import importlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.problems import Problem
from workbench.emission.functions import FUNCTIONS
from workbench.verification.defaults import default_choices, default_name
from workbench.verification.function_checks import FunctionChecks, Seen, Subject, Tuned
from workbench.verification.operator_case import Case
from workbench.verification.recorder import Recorder, Report
from workbench.verification.rivals import Contender, time_contenders
from workbench.verification.torch_checks import (
    judge_captured,
    judge_compiled,
    judge_registration,
    judge_seeds,
    seeds_of,
)

__all__ = ["OperatorChecks"]


class OperatorChecks(FunctionChecks):
    """Checks of a function of torch tensors."""

    function: ClassVar[str]
    module: ClassVar[str]  #: of the package, without its underscore's dot
    #: Names of what the operands hold, the plain random ones first.
    patterns: ClassVar[tuple[str, ...]]
    rival: ClassVar[str] = ""  #: what tuned entries are timed beside; "": nothing
    fallback: ClassVar[str] = ""  #: kernel family that stands in for those that cannot run

    @abstractmethod
    def small(self, tuned: Tuned) -> Problem:
        """A problem for Triton's interpreter in place of the tuned one."""

    @abstractmethod
    def tails(self, tuned: Tuned, device: str) -> Problem:
        """Extents beyond multiples of the tuned tile that the configuration can run."""

    @abstractmethod
    def odd(self, tuned: Tuned, device: str) -> Problem:
        """Extents that nothing was tuned for, and that no alignment helps."""

    def default_problem(self, tuned: Tuned, family: str, device: str) -> Problem:
        """Extents that a default of a family can run."""
        return self.odd(tuned, device)

    @abstractmethod
    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        """Operands of a problem on the subject's device."""

    def misread(self, subject: Subject, problem: Problem, pattern: str) -> str:
        """Why Triton's interpreter cannot run this; or ''."""
        return ""

    def interpreter(self, subject: Subject) -> contextlib.AbstractContextManager[None]:
        """Makes Triton's interpreter as exact as the hardware, or fast, while it runs."""
        return contextlib.nullcontext()

    def obstacle(self, subject: Subject, tuned: Tuned) -> str:
        """Why the tuned kernel cannot run on the subject's device; or ''."""
        return ""

    def without_device(
        self, subject: Subject, tuned: Tuned, choice: Any, reason: str, report: Report
    ) -> None:
        """What can be said of a kernel that cannot run here: of its launcher and its stand-in."""
        label = f"{tuned.kernel} {tuned.problem}"
        if (judge := self.launcher(subject, tuned, choice)) is not None:
            with Recorder(report, f"{label}: launcher") as check:
                judge(check)
        with Recorder(report, f"{label}: answers") as check:
            check.skip(reason)
        if (instead := self.stand_in(subject, tuned, choice)) is None:
            return
        small = self.small(tuned)
        with Recorder(report, f"{label}: stand-in: configuration") as check:
            check.expect(instead.file.kernel != tuned.kernel, "a kernel stands in for itself")
            check.expect(not instead.tuned, "the stand-in is a tuned entry")
            check.note(f"{instead.file.kernel}, default for M = {instead.m}")
        for pattern in self.patterns:
            self._answer(subject, small, pattern, instead, f"{label}: stand-in: {pattern}", report)

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        """Judges, without a device, whether a kernel's launcher takes the tuned configuration."""
        return None

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        """What is timed for an entry: the package, and what people would use instead."""
        return []

    def time(self, subject: Subject, report: Report) -> None:
        if not self.rival:
            return
        entries = subject.entries(self.function)
        with Recorder(report, f"timing of {self.function}") as check:
            for tuned in entries:
                choice = self.choice(subject, tuned, tuned.problem)
                for line in time_contenders(self.contenders(subject, tuned, choice)):
                    report(line)
            check.note(f"{len(entries)} entries beside {self.rival}")

    def stand_in(self, subject: Subject, tuned: Tuned, choice: Any) -> Any:
        """What the package runs where a tuned kernel cannot; ``None``: nothing."""
        if not self.fallback:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return subject.package._lookup.stand_in(choice, self.fallback, choice.m, "verification")

    def choice(self, subject: Subject, tuned: Tuned, problem: Problem) -> Any:
        """What the package would run for a problem."""
        function = next(one for one in FUNCTIONS if one.name == self.function)
        m, extents = function.key(problem)
        name = torch.cuda.get_device_name(0) if subject.device == "cuda" else "cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats, lookup = function.formats(problem), subject.package._lookup
            held = [name for name in function.families if formats in lookup.layouts(name)]
            return lookup.choose(held[0], formats, extents, m, name, tuple(held[1:]))

    def check(self, subject: Subject, report: Report) -> None:
        importlib.import_module(f"{subject.package.__name__}.{self.module}")
        seen = Seen(subject.device)
        once: set[tuple[str, ...]] = set()
        function = next(one for one in FUNCTIONS if one.name == self.function)
        for tuned in subject.entries(self.function):
            formats = function.formats(tuned.problem)
            before = seen.before(tuned.kernel, tuned.config, formats, str(tuned.problem))
            self._check_entry(subject, tuned, report, before)
            if formats not in once:
                once.add(formats)
                self._check_formats(subject, tuned, formats, report)
            if subject.device == "cuda":
                self._check_compiled(subject, tuned, report)

    def _check_entry(self, subject: Subject, tuned: Tuned, report: Report, seen: str) -> None:
        label = f"{tuned.kernel} {tuned.problem}"
        on_gpu = subject.device == "cuda"
        with Recorder(report, f"{label}: configuration") as check:
            choice = self.choice(subject, tuned, tuned.problem)
            runs = f"the package runs {choice.file.kernel} {choice.config}"
            same = (choice.file.kernel, choice.config) == (tuned.kernel, tuned.config)
            check.expect(same, runs)
            check.expect(choice.tuned, "the package takes the default")
            check.note("the package runs the configuration of the evidence")
        if seen:
            with Recorder(report, f"{label}: answers") as check:
                check.note(f"formats, configuration and small shapes are those of {seen}")
            return
        choice = replace(self.choice(subject, tuned, tuned.problem), config=tuned.config)
        small, random = self.small(tuned), self.patterns[0]
        if reason := self.obstacle(subject, tuned):
            self.without_device(subject, tuned, choice, reason, report)
            return
        if on_gpu:
            self._answer(subject, tuned.problem, random, None, f"{label}: {random}", report)
        else:
            self._answer(subject, small, random, choice, f"{label}: {random}", report)
        tails = self.tails(tuned, subject.device)
        self._answer(subject, tails, random, choice, f"{label}: tails of the tuned tile", report)
        for pattern in self.patterns[1:]:
            self._answer(subject, small, pattern, choice, f"{label}: {pattern}", report)

    def _check_formats(
        self, subject: Subject, tuned: Tuned, formats: Sequence[str], report: Report
    ) -> None:
        odd = self.odd(tuned, subject.device)
        name = f"{self.function} {odd}: untuned odd extents"
        with Recorder(report, f"{name}, configuration") as check:
            check.expect(
                not self.choice(subject, tuned, odd).tuned, "the package calls this shape tuned"
            )
        self._answer(subject, odd, self.patterns[0], None, name, report)
        families = dict.fromkeys((self.fallback or tuned.kernel, tuned.kernel))
        for family in families:
            default = replace(tuned, kernel=family)
            reason = self.obstacle(subject, default)
            problem = self.default_problem(default, family, subject.device)
            for choice in default_choices(subject.package._lookup, family, tuple(formats)):
                name = f"{family} {' '.join(formats)}: {default_name(choice)}"
                if reason:
                    with Recorder(report, name) as check:
                        check.skip(reason)
                else:
                    self._answer(subject, problem, self.patterns[0], choice, name, report)
        with Recorder(report, f"operator {self.function} {' '.join(formats)}: opcheck") as check:
            reason = "" if subject.device == "cuda" else self.misread(subject, odd, "")
            if reason:
                check.skip(f"Triton's interpreter {reason}: needs a GPU")
                return
            case = self.case(subject, odd, self.patterns[0])
            with self.interpreter(subject):
                judge_registration(check, subject.package, case.operator, case.arguments)

    def _answer(
        self,
        subject: Subject,
        problem: Problem,
        pattern: str,
        choice: Any,
        name: str,
        report: Report,
    ) -> None:
        """One answer: the public function's, or that of a choice, whatever it was made for."""
        with Recorder(report, name) as check:
            reason = "" if subject.device == "cuda" else self.misread(subject, problem, pattern)
            if reason:
                check.skip(f"Triton's interpreter {reason}: needs a GPU")
                return
            case = self.case(subject, problem, pattern)
            with self.interpreter(subject), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an untuned shape warns
                if choice is None:
                    taken = self.choice(
                        subject, Tuned(kernel="", problem=problem, config={}), problem
                    )
                    case.judge(check, case.call(), taken)
                else:
                    case.judge(check, case.launch(choice), choice)

    def _check_compiled(self, subject: Subject, tuned: Tuned, report: Report) -> None:
        """The tuned call under ``torch.compile(fullgraph=True)`` and in a CUDA graph, on a GPU."""
        label = f"{tuned.kernel} {tuned.problem}"
        case = self.case(subject, tuned.problem, self.patterns[0])
        with Recorder(report, f"{label}: torch.compile fullgraph") as check:
            judge_compiled(check, case.call)
        overload = getattr(getattr(torch.ops, subject.package.__name__), case.operator).default
        if seeds_of(overload, case.arguments):
            with Recorder(report, f"{label}: torch.compile, other seeds") as check:
                judge_seeds(check, overload, case.arguments)
        with Recorder(report, f"{label}: CUDA graph") as check:
            judge_captured(check, case.call)
