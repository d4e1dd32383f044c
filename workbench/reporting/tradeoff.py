"""Time, energy and error of every recipe on a shape, and who is beaten in all three by nobody.

Time and energy are both measured or both simulated where energy was searched for.  Where time was,
the energy is the cost model's for the configuration that won, and stands in a column of its own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sim
from sim import matmul_error
from sim.energy import launch_energy
from tiles.kernels import Accepted, ConfigTable
from tiles.problems import Gemm, Problem, Quantize
from tuning import Run, StudyRecord, TrialRecord
from tuning.family import family
from tuning.objective import Objective
from workbench.pareto import pareto
from workbench.printable import printable_name
from workbench.reporting.comparison import pareto_front, quantize_step, shape_text, winner_of

if TYPE_CHECKING:
    from sim import Gpu

__all__ = ["Tradeoff", "TradeoffFront", "fronts", "names", "tradeoffs", "without_energy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """What something takes, or several launches one behind the other; None is not known."""

    time_us: float
    predicted_us: float
    energy_mj: float | None
    predicted_energy_mj: float | None

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(
            time_us=self.time_us + other.time_us,
            predicted_us=self.predicted_us + other.predicted_us,
            energy_mj=_sum(self.energy_mj, other.energy_mj),
            predicted_energy_mj=_sum(self.predicted_energy_mj, other.predicted_energy_mj),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tradeoff:
    """A configuration of one recipe on one shape."""

    run: str  #: name of the run that it is from
    problem: Gemm
    gpu: str
    kernel: str
    path: str  #: "native" or "emulated"
    config: str
    simulated: bool  #: whether the next two are the cost model's
    time_us: float
    energy_mj: float | None  #: None where it was not read
    predicted_us: float
    predicted_energy_mj: float | None  #: None where nothing prices the family
    with_quantize: bool  #: all four with quantising the activations
    sqnr_normal_db: float | None  #: of the product, computed; None: exact
    sqnr_outlier_db: float | None

    @property
    def recipe(self) -> str:
        """Its name."""
        return self.problem.recipe.name

    @property
    def launches(self) -> str:
        """What its time and energy are of."""
        quantized = self.with_quantize and quantize_step(self.problem) is not None
        return "product, quantize" if quantized else "product"


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeoffFront:
    """The entries of one shape that can be compared with one another."""

    shape: str
    simulated: bool
    by_read_energy: bool  #: whether energies were measured (or simulated); else they are predicted
    rows: tuple[Tradeoff, ...]
    front: tuple[bool, ...]  #: row by row: no other is as good in all three and better in one

    def energy_mj(self, row: Tradeoff) -> float:
        """The energy that the front goes by."""
        found = row.energy_mj if self.by_read_energy else row.predicted_energy_mj
        assert found is not None
        return found

    def drawn(self) -> list[tuple[Tradeoff, bool]]:
        """Entries that a plot over the error has a place for, with whether they are beaten by none.

        Those are the last, and small ones stand behind large ones: what is drawn later hides less.
        """
        pairs = [
            (row, kept)
            for row, kept in zip(self.rows, self.front, strict=True)
            if row.sqnr_normal_db is not None
        ]
        return sorted(pairs, key=lambda pair: (pair[1], -self.energy_mj(pair[0])))

    @property
    def energy_word(self) -> str:
        """What those energies are."""
        if not self.by_read_energy:
            return "predicted"
        return "simulated" if self.simulated else "measured"

    @property
    def time_word(self) -> str:
        """What the times are."""
        return "simulated" if self.simulated else "measured"


def tradeoffs(run: Run) -> list[Tradeoff]:
    """Every recipe's entries: its winner and, where energies were read, all that trade time for
    energy."""
    products: dict[tuple[bool, Gemm], list[StudyRecord]] = {}
    steps: dict[tuple[bool, Quantize], list[StudyRecord]] = {}
    for study in run.studies:
        if isinstance(study.problem, Gemm):
            products.setdefault((study.simulated, study.problem), []).append(study)
        elif isinstance(study.problem, Quantize):
            steps.setdefault((study.simulated, study.problem), []).append(study)
    found: list[Tradeoff] = []
    for simulated, shape in dict.fromkeys((s, _shape(p)) for s, p in products):
        own = [p for s, p in products if s is simulated and _shape(p) == shape]
        costs = {p: _quantize_cost(p, simulated, steps, run.gpu) for p in own}
        # With quantising for all of a shape, or for none: else unlike things would be compared.
        whole = all(cost is not None for cost in costs.values())
        for problem in own:
            cost = costs[problem] if whole else None
            found += _entries(run, products[simulated, problem], problem, cost, whole)
    return found


def fronts(rows: Iterable[Tradeoff]) -> list[TradeoffFront]:
    """Entries by shape, GPU and whether they were simulated, with the front of each.

    Entries without any energy are left out.
    """
    groups: dict[tuple[object, ...], list[Tradeoff]] = {}
    for row in rows:
        key = (row.gpu, row.simulated, row.with_quantize, _shape(row.problem))
        groups.setdefault(key, []).append(row)
    return [found for group in groups.values() if (found := _front(group)) is not None]


def names(pairs: Sequence[tuple[Tradeoff, bool]]) -> list[str]:
    """Names beside marks: of several configurations of a recipe one has it, best one not beaten."""
    named: dict[str, int] = {}
    for place, (row, kept) in enumerate(pairs):
        if row.recipe not in named or (kept and not pairs[named[row.recipe]][1]):
            named[row.recipe] = place
    return [
        row.recipe if named[row.recipe] == place else "" for place, (row, _) in enumerate(pairs)
    ]


def without_energy(rows: Sequence[Tradeoff], found: Sequence[TradeoffFront]) -> str:
    """How many entries no front holds, in a sentence; empty where all are there."""
    left = len(rows) - sum(len(one.rows) for one in found)
    if not left:
        return ""
    return f"{left} of {len(rows)} entries are left out: no cost model has their energy."


def _front(group: Sequence[Tradeoff]) -> TradeoffFront | None:
    read = all(row.energy_mj is not None for row in group)
    rows = [row for row in group if read or row.predicted_energy_mj is not None]
    if not rows:
        return None
    energies = [row.energy_mj if read else row.predicted_energy_mj for row in rows]
    errors = [math.inf if row.sqnr_normal_db is None else row.sqnr_normal_db for row in rows]
    points = [
        (row.time_us, energy or 0.0, -error)
        for row, energy, error in zip(rows, energies, errors, strict=True)
    ]
    return TradeoffFront(
        shape=shape_text(rows[0].problem),
        simulated=rows[0].simulated,
        by_read_energy=read,
        rows=tuple(rows),
        front=tuple(pareto(points)),
    )


def _shape(problem: Gemm) -> tuple[object, ...]:
    return (*problem.shape, problem.out)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _entries(
    run: Run,
    studies: Sequence[StudyRecord],
    problem: Gemm,
    quantize: _Cost | None,
    whole: bool,
) -> list[Tradeoff]:
    found = []
    for study, trial in _chosen(studies):
        cost = _cost(study, trial, run.gpu)
        if quantize is not None:
            cost += quantize
        found.append(
            Tradeoff(
                run=printable_name(run.folder.name),
                problem=problem,
                gpu=run.gpu.name,
                kernel=study.kernel,
                path=study.path,
                config=str(trial.config),
                simulated=study.simulated,
                time_us=cost.time_us,
                energy_mj=cost.energy_mj,
                predicted_us=cost.predicted_us,
                predicted_energy_mj=cost.predicted_energy_mj,
                with_quantize=whole,
                sqnr_normal_db=_sqnr_db(problem, "normal"),
                sqnr_outlier_db=_sqnr_db(problem, "outlier"),
            )
        )
    return found


def _chosen(studies: Sequence[StudyRecord]) -> list[tuple[StudyRecord, TrialRecord]]:
    """Of all families the winner or, of those whose energies were read, what no other beats."""
    read = [
        (
            *(study, trial, trial.measurement.time_us),
            trial.beside_turns(trial.measurement.energy.energy_mj),
        )
        for study in studies
        if study.objective is Objective.ENERGY
        for trial in study.trials
        if trial.measurement.time_us is not None
        and trial.measurement.energy is not None
        and not trial.stale
    ]
    if read:
        front = pareto_front([(-time_us, -energy_mj) for *_, time_us, energy_mj in read])
        return [read[place][:2] for place in front]
    best = winner_of(studies)
    return [] if best is None else [best]


def _quantize_cost(
    problem: Gemm,
    simulated: bool,
    steps: dict[tuple[bool, Quantize], list[StudyRecord]],
    gpu: "Gpu",
) -> _Cost | None:
    """Of quantising a product's activations; None where the run does not hold it."""
    try:
        step = quantize_step(problem)
    except LookupError:
        return None
    if step is None:
        return _Cost(time_us=0.0, predicted_us=0.0, energy_mj=0.0, predicted_energy_mj=0.0)
    best = winner_of(steps.get((simulated, step), ()))
    return None if best is None else _cost(*best, gpu)


def _cost(study: StudyRecord, trial: TrialRecord, gpu: "Gpu") -> _Cost:
    outcome = trial.measurement
    assert outcome.time_us is not None
    predicted = trial.predicted_energy_mj
    if predicted is None:
        predicted = _predicted_mj(study.problem, study.kernel, trial, gpu)
    return _Cost(
        time_us=outcome.time_us,
        predicted_us=trial.predicted_us,
        energy_mj=None if outcome.energy is None else outcome.energy.energy_mj,
        predicted_energy_mj=predicted,
    )


def _predicted_mj(problem: Problem, name: str, trial: TrialRecord, gpu: "Gpu") -> float | None:
    """By the predicted power of the configuration and its stored predicted time among others."""
    try:
        one = family(name)
    except ValueError:
        return None  # a family of elsewhere, that is not installed here
    if not isinstance(trial.config, one.config_type):
        return None
    if one.refusal(problem, gpu.limits) is not None or sim.unpriced(problem, one) is not None:
        return None
    if not isinstance(one.judge(problem, trial.config, gpu.limits), Accepted):
        return None
    priced = sim.price(problem, one, ConfigTable.of([trial.config]), gpu)
    now = priced.prediction(0)
    return launch_energy(now, gpu).energy_mj * trial.predicted_us / now.time_us


def _sqnr_db(problem: Gemm, data: str) -> float | None:
    value = float(matmul_error(problem.recipe, data).sqnr_db)
    return value if math.isfinite(value) else None
