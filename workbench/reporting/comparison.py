"""Formats side by side: every product's speed-up over bf16 and its numerical error."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim import matmul_error
from tiles.problems import Gemm, Quantize
from tiles.recipes import RECIPES, Recipe
from tuning import Run, StudyRecord, TrialRecord

__all__ = [
    "BASELINE",
    "Compared",
    "compare",
    "geometric_mean",
    "kind_of_times",
    "pareto_front",
    "quantize_step",
    "shape_text",
    "winner_of",
]

BASELINE = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The winner of one recipe on one shape: the fastest, or the one with the least energy.

    Times are all measured or all simulated, as the run was: :attr:`simulated` says which.
    """

    problem: Gemm
    kernel: str
    path: str  #: "native" or "emulated"
    simulated: bool
    time_us: float
    #: 0 for 16-bit recipes; None when the run does not hold it, and where outliers are set apart.
    quantize_us: float | None
    baseline_us: float | None  #: bf16 on the same shape; None when the run does not hold it
    predicted_us: float  #: what the model said of the same configuration; so of the next two
    predicted_quantize_us: float | None
    predicted_baseline_us: float | None

    @property
    def recipe(self) -> Recipe:
        """The recipe of the product."""
        return self.problem.recipe

    @property
    def speedup_kernel(self) -> float | None:
        """Over bf16, operands already quantised."""
        return None if self.baseline_us is None else self.baseline_us / self.time_us

    @property
    def speedup_with_quantize(self) -> float | None:
        """Over bf16, activations quantised on every call, weights ahead of time."""
        if self.baseline_us is None or self.quantize_us is None:
            return None
        return self.baseline_us / (self.time_us + self.quantize_us)

    @property
    def predicted_speedup_kernel(self) -> float | None:
        """What the model said of :attr:`speedup_kernel`."""
        if self.predicted_baseline_us is None:
            return None
        return self.predicted_baseline_us / self.predicted_us

    @property
    def predicted_speedup_with_quantize(self) -> float | None:
        """What the model said of :attr:`speedup_with_quantize`."""
        if self.predicted_baseline_us is None or self.predicted_quantize_us is None:
            return None
        return self.predicted_baseline_us / (self.predicted_us + self.predicted_quantize_us)

    def sqnr_db(self, data: str) -> float | None:
        """Signal to quantisation noise of the product on ``normal`` or ``outlier`` data."""
        value = float(matmul_error(self.recipe, data).sqnr_db)
        return value if math.isfinite(value) else None


def winner_of(studies: Iterable[StudyRecord]) -> tuple[StudyRecord, TrialRecord] | None:
    """The study with the best correct trial by what was searched for, and that trial."""
    found = [(study, study.best) for study in studies]
    timed = [(s, b) for s, b in found if b is not None and b.measurement.time_us is not None]
    return min(
        timed, key=lambda pair: pair[0].objective.of(pair[1].measurement) or math.inf, default=None
    )


def quantize_step(problem: Gemm) -> Quantize | None:
    """What quantises a product's activations; None where they stay in 16 bits.

    Raises:
        LookupError: they are changed by what has no kernel of its own.
    """
    if problem.recipe.outliers is not None:
        raise LookupError("setting outliers apart is more than quantising, without a kernel")
    if problem.recipe.quantized:
        return Quantize(rows=problem.m, cols=problem.k, target=problem.recipe.activation)
    if problem.recipe.direct_cast:
        raise LookupError("a cast without scales has no kernel of its own")
    return None


def compare(run: Run) -> list[Compared]:
    """Every product with a correct result, shape by shape, recipes in the catalogue's order."""
    products: dict[tuple[bool, Gemm], list[StudyRecord]] = {}
    quantizers: dict[tuple[bool, Quantize], list[StudyRecord]] = {}
    for study in run.studies:
        if isinstance(study.problem, Gemm):
            products.setdefault((study.simulated, study.problem), []).append(study)
        elif isinstance(study.problem, Quantize):
            quantizers.setdefault((study.simulated, study.problem), []).append(study)

    def times_us(studies: Iterable[StudyRecord]) -> tuple[float | None, float | None]:
        fastest = winner_of(studies)
        if fastest is None:
            return None, None
        return fastest[1].measurement.time_us, fastest[1].predicted_us

    rows: list[Compared] = []
    for (simulated, problem), studies in products.items():
        fastest = winner_of(studies)
        if fastest is None or fastest[1].measurement.time_us is None:
            continue
        baseline = Gemm(
            m=problem.m,
            n=problem.n,
            k=problem.k,
            recipe=RECIPES[BASELINE],
            out=problem.baseline_out,
        )
        quantize_us: tuple[float | None, float | None] = (0.0, 0.0)
        try:
            step = quantize_step(problem)
        except LookupError:
            quantize_us = None, None
        else:
            if step is not None:
                quantize_us = times_us(quantizers.get((simulated, step), ()))
        baseline_us = times_us(products.get((simulated, baseline), ()))
        rows.append(
            Compared(
                problem=problem,
                kernel=fastest[0].kernel,
                path=fastest[0].path,
                simulated=simulated,
                time_us=fastest[1].measurement.time_us,
                quantize_us=quantize_us[0],
                baseline_us=baseline_us[0],
                predicted_us=fastest[1].predicted_us,
                predicted_quantize_us=quantize_us[1],
                predicted_baseline_us=baseline_us[1],
            )
        )
    shapes = list(dict.fromkeys(row.problem.shape for row in rows))
    catalogue = [*RECIPES, *(r.recipe.name for r in rows if r.recipe.name not in RECIPES)]
    return sorted(
        rows, key=lambda r: (shapes.index(r.problem.shape), catalogue.index(r.recipe.name))
    )


def shape_text(problem: Gemm) -> str:
    """``M×N×K``, with the output format where it is not the usual one."""
    text = "×".join(map(str, problem.shape))
    return text if problem.out == "bf16" else f"{text} {problem.out}"


def kind_of_times(rows: Sequence[Compared]) -> str:
    """Whether times are measured or simulated; a run folder holds one kind."""
    return " and ".join(sorted({"simulated" if row.simulated else "measured" for row in rows}))


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values, at least one."""
    return math.exp(sum(map(math.log, values)) / len(values))


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both coordinates (larger is better), by x."""
    front: list[int] = []
    best_y = -math.inf
    for index in sorted(range(len(points)), key=lambda i: points[i], reverse=True):
        if points[index][1] > best_y:
            front.append(index)
            best_y = points[index][1]
    return front[::-1]
