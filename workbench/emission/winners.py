"""The winners of a run: of every problem the entry that ships, and what it beat.

Families that serve one function of a package compete: of several that tuned a problem the fastest
ships.  Where a family cannot run a call, its stand-ins do, with default configurations; so their
templates and defaults ship as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiles.kernels import Backend, Kernel, NumericPath, kernel
from tiles.problems import Problem
from tuning.objective import Objective
from workbench.emission.function import Free, Function
from workbench.emission.functions import EMITTED, function_of
from workbench.emission.naming import check_file_part

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import StudyRecord, TrialRecord

__all__ = [
    "Slower",
    "TunedEntry",
    "config_file_name",
    "families_of",
    "fastest",
    "obstacle",
    "template_folder",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedEntry:
    """The winner of one study."""

    study: "StudyRecord"
    best: "TrialRecord"
    gpu: "Gpu"
    #: The M that it stands under in a file, where keys were chosen so that calls of the study's own
    #: M still take it; ``None``: that M.
    key: int | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel family."""
        return kernel(self.study.kernel)

    @property
    def problem(self) -> Problem:
        """What was tuned."""
        return self.study.problem

    @property
    def path(self) -> NumericPath:
        """Whether the GPU runs the formats natively."""
        return self.kernel.path(self.problem, self.gpu.limits)

    @property
    def function(self) -> Function:
        """The function of the package that launches it."""
        found = function_of(self.study.kernel, self.problem)
        assert found is not None  # others have an obstacle
        return found

    @property
    def m(self) -> Free:
        """The free extents: M of a product, rows of a quantisation, several of a batch."""
        return self.key if self.key is not None else self.function.key(self.problem)[0]

    @property
    def extents(self) -> tuple[int, ...]:
        """The fixed extents: (N, K), or (columns,)."""
        return self.function.key(self.problem)[1]

    @property
    def formats(self) -> tuple[str, ...]:
        """(recipe, output) of a product, (target, source) of a quantisation."""
        return self.function.formats(self.problem)

    @property
    def simulated(self) -> bool:
        """Whether the cost model stood in for a measurement."""
        return self.study.simulated

    @property
    def time_us(self) -> float:
        """Measured, or simulated where :attr:`simulated`."""
        found = self.best.measurement.time_us
        assert found is not None
        return found

    @property
    def value(self) -> float:
        """The time or, where energy was searched for, the energy: the least one ships."""
        found = self.study.objective.of(self.best.measurement)
        assert found is not None
        return found

    @property
    def file_name(self) -> str:
        """Name of the file under ``configs/`` that holds the entry."""
        return config_file_name(self.study.kernel, self.formats, self.extents, self.study.gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slower:
    """A tuned entry that does not ship, because another family is better on its problem."""

    entry: TunedEntry
    winner: TunedEntry

    def __str__(self) -> str:
        how = " (simulated)" if self.winner.simulated else ""
        objective = self.entry.study.objective
        better = "is faster" if objective is Objective.TIME else "takes less energy"
        return (
            f"{self.winner.study.kernel} {better}: {self.winner.value:.2f} {objective.unit} "
            f"against {self.entry.value:.2f} {objective.unit}{how}"
        )


def obstacle(study: "StudyRecord", gpu: "Gpu") -> str | None:
    """Why a package cannot hold a study's winner, or ``None`` when it can."""
    function = function_of(study.kernel, study.problem)
    if function is None:
        return f"packages have a function for {', '.join(EMITTED)} only"
    for family, problem in function.stand_ins(study.kernel, study.problem):
        reason = kernel(family).refusal(problem, gpu.limits)
        if reason is not None:
            return f"nothing stands in for it where it cannot run: {reason}"
    return None


def fastest(entries: Sequence[TunedEntry]) -> tuple[list[TunedEntry], list[Slower]]:
    """Of each problem on a GPU the best family of every function, and what it beat.

    Measured entries come before simulated ones.

    Args:
        entries: of studies that have no :func:`obstacle`.
    Raises:
        ValueError: two studies of one problem, kernel and GPU.
    """
    rivals: dict[tuple[str, Problem, str], list[TunedEntry]] = {}
    for entry in entries:
        name = entry.study.kernel
        key = (entry.function.name, entry.problem, entry.study.gpu)
        same = rivals.setdefault(key, [])
        if any(other.study.kernel == name for other in same):
            raise ValueError(f"two studies tuned {entry.problem} on {entry.study.gpu}: keep one")
        same.append(entry)
    kept: list[TunedEntry] = []
    slower: list[Slower] = []
    for same in rivals.values():
        winner = min(same, key=lambda entry: (entry.simulated, entry.value))
        kept.append(winner)
        slower += [Slower(entry=e, winner=winner) for e in same if e is not winner]
    return kept, slower


def config_file_name(
    family: str, formats: Sequence[str], extents: Sequence[int] | None, gpu: str | None
) -> str:
    """Name of a file under ``configs/``.

    Args:
        family: whose configurations are in it.
        formats: what it is for, beside the extents.
        extents: fixed extents, or ``None`` for defaults.
        gpu: that it was tuned for; ``None``: defaults for GPUs that nothing was tuned on.
    Raises:
        ValueError: a name that may not be part of a file's name.
    """
    parts = [
        check_file_part(family, "kernel"),
        *(check_file_part(name, "format") for name in formats),
        "default" if extents is None else "x".join(map(str, extents)),
    ]
    if gpu is not None:
        parts.append(check_file_part(gpu, "gpu"))
    return "-".join(parts) + ".json"


def families_of(entry: TunedEntry) -> dict[str, Problem]:
    """The families that ship for an entry, its own first, each with the problem that it serves."""
    name = entry.study.kernel
    return {name: entry.problem, **dict(entry.function.stand_ins(name, entry.problem))}


def template_folder(family: Kernel) -> str:
    """Folder under ``kernels/`` that holds a family's template."""
    return "cuda" if family.backend is Backend.CUPY else "triton"
