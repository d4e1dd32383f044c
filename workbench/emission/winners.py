"""The winners of a run: of every problem the entry that ships, and what it beat.

Families that serve one function of a package compete: of several that tuned a problem the fastest
ships.  Where a family cannot run a call, its stand-in does, with a default configuration; so the
stand-in's template and defaults ship as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiles.kernels import Backend, Kernel, NumericPath, kernel
from tiles.problems import Problem
from workbench.emission.naming import check_file_part

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import StudyRecord, TrialRecord

__all__ = [
    "API_MODULES",
    "STAND_INS",
    "Slower",
    "TunedEntry",
    "config_file_name",
    "families_of",
    "fastest",
    "obstacle",
    "template_folder",
]

#: Kernel families that can be emitted, and the module of the package that calls each.  Studies of
#: any other family are left out, with that reason.
API_MODULES = {
    "triton_gemm": "_gemm.py",
    "hopper_gemm": "_gemm.py",
    "hopper_skinny_gemm": "_gemm.py",
    "hopper_block_gemm": "_gemm.py",
    "triton_quantize": "_quantize.py",
    "cuda_quantize": "quantize_cuda.py",
}
#: What runs the calls that a family cannot: another GPU, rows that its loads cannot address.
STAND_INS = dict.fromkeys(("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm"), "triton_gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedEntry:
    """The winner of one study."""

    study: "StudyRecord"
    best: "TrialRecord"
    gpu: "Gpu"

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
    def m(self) -> int:
        """The free extent: M of a product, rows of a quantisation."""
        return self.problem.shape[0]

    @property
    def extents(self) -> tuple[int, ...]:
        """The fixed extents: (N, K), or (columns,)."""
        return self.problem.shape[1:]

    @property
    def formats(self) -> tuple[str, ...]:
        """(recipe, output) of a product, (target, source) of a quantisation."""
        return self.problem.formats

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
    def file_name(self) -> str:
        """Name of the file under ``configs/`` that holds the entry."""
        return config_file_name(self.kernel, self, self.extents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slower:
    """A tuned entry that does not ship, because another family is faster on its problem."""

    entry: TunedEntry
    winner: TunedEntry

    def __str__(self) -> str:
        how = " (simulated)" if self.winner.simulated else ""
        return (
            f"{self.winner.study.kernel} is faster: "
            f"{self.winner.time_us:.2f} us against {self.entry.time_us:.2f} us{how}"
        )


def obstacle(study: "StudyRecord", gpu: "Gpu") -> str | None:
    """Why a package cannot hold a study's winner, or ``None`` when it can."""
    if study.kernel not in API_MODULES:
        return f"packages have a function for {', '.join(API_MODULES)} only"
    stand_in = STAND_INS.get(study.kernel)
    if stand_in is None:
        return None
    reason = kernel(stand_in).refusal(study.problem, gpu.limits)
    return None if reason is None else f"nothing stands in for it where it cannot run: {reason}"


def fastest(entries: Sequence[TunedEntry]) -> tuple[list[TunedEntry], list[Slower]]:
    """Of each problem on a GPU the fastest family of every function, and what it beat.

    Measured entries come before simulated ones.

    Args:
        entries: of families in :data:`API_MODULES`.
    Raises:
        ValueError: two studies of one problem, kernel and GPU.
    """
    rivals: dict[tuple[str, Problem, str], list[TunedEntry]] = {}
    for entry in entries:
        name = entry.study.kernel
        same = rivals.setdefault((API_MODULES[name], entry.problem, entry.study.gpu), [])
        if any(other.study.kernel == name for other in same):
            raise ValueError(f"two studies tuned {entry.problem} on {entry.study.gpu}: keep one")
        same.append(entry)
    kept: list[TunedEntry] = []
    slower: list[Slower] = []
    for same in rivals.values():
        winner = min(same, key=lambda entry: (entry.simulated, entry.time_us))
        kept.append(winner)
        slower += [Slower(entry=e, winner=winner) for e in same if e is not winner]
    return kept, slower


def config_file_name(
    family: Kernel,
    entry: TunedEntry,
    extents: tuple[int, ...] | None,
    *,
    any_gpu: bool = False,
) -> str:
    """Name of the file under ``configs/`` for an entry's formats and GPU.

    Args:
        family: whose configurations are in it.
        entry: its formats and GPU are part of the name.
        extents: fixed extents, or ``None`` for defaults.
        any_gpu: defaults for GPUs that nothing was tuned on.
    Raises:
        ValueError: a name that may not be part of a file's name.
    """
    parts = [
        check_file_part(family.name, "kernel"),
        *(check_file_part(name, "format") for name in entry.formats),
        "default" if extents is None else "x".join(map(str, extents)),
    ]
    if not any_gpu:
        parts.append(check_file_part(entry.study.gpu, "gpu"))
    return "-".join(parts) + ".json"


def families_of(entry: TunedEntry) -> list[str]:
    """The families that ship for an entry: its own, and what stands in for it."""
    name = entry.study.kernel
    return [name, STAND_INS[name]] if name in STAND_INS else [name]


def template_folder(family: Kernel) -> str:
    """Folder under ``kernels/`` that holds a family's template."""
    return "cuda" if family.backend is Backend.CUPY else "triton"
