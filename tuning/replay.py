"""Strategies replayed on a study whose every configuration was measured: no GPU, no worker.

The strategies are the sweep's own.  What a configuration did when it was measured is what it does
again, failures included.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tiles.kernels import Status
from tuning.plan import Strategy
from tuning.records import Run, StudyRecord
from tuning.replay_space import BATCH, F64, ReplaySpace, Walk
from tuning.staleness import stale_lines
from tuning.store import quiet_optuna
from tuning.strategies import STRATEGIES

__all__ = ["REPLAY_SCHEMA", "Curve", "Replay", "StudyReplay", "replay"]

REPLAY_SCHEMA = "tile-workbench/replay/1"

MAX_SEEDS = 10_000
#: What a report's curves are of where no strategy is named.
COMPARED = (Strategy.HYBRID, Strategy.MODEL, Strategy.TPE, Strategy.RANDOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One strategy over all seeds: the fraction of the optimum after 1, 2, 3 ... measurements."""

    strategy: Strategy
    median: tuple[float, ...]
    p10: tuple[float, ...]  #: a tenth of the seeds did worse
    p90: tuple[float, ...]
    measurements: tuple[int, int, int]  #: p10, median, p90 of what was measured before it stopped
    stopped_early: float  #: share of the seeds that stopped before their budget was spent
    failures: Mapping[str, float]  #: failed measurements a seed, by status

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "median": [round(value, 6) for value in self.median],
            "p10": [round(value, 6) for value in self.p10],
            "p90": [round(value, 6) for value in self.p90],
            "measurements": dict(zip(("p10", "median", "p90"), self.measurements, strict=True)),
            "stopped_early": self.stopped_early,
            "failures": dict(self.failures),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReplay:
    """Every strategy on one study."""

    space: ReplaySpace
    curves: tuple[Curve, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        space = self.space
        return {
            "problem": str(space.problem),
            "kernel": space.kernel,
            "simulated": space.simulated,
            "legal_configurations": space.legal_size,
            "measured_configurations": len(space.outcomes),
            "statuses": dict(Counter(outcome.status.value for outcome in space.outcomes)),
            f"optimum_{space.objective.unit.lower()}": space.best,
            "strategies": {curve.strategy.value: curve.to_dict() for curve in self.curves},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A run's studies replayed, each by itself, and all of them together."""

    run: Run
    seeds: int
    max_measurements: int
    batch: int
    studies: tuple[StudyReplay, ...]
    overall: tuple[Curve, ...]  #: over all seeds of all studies, each study with the same weight
    stale: tuple[str, ...]  #: a line a study that rests on what has changed since
    seconds: float  #: what the replay took

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": REPLAY_SCHEMA,
            "study": self.run.folder.name,
            "gpu": self.run.gpu.name,
            "stale": list(self.stale),
            "seeds": self.seeds,
            "max_measurements": self.max_measurements,
            "batch": self.batch,
            "studies": [study.to_dict() for study in self.studies],
            "overall": {curve.strategy.value: curve.to_dict() for curve in self.overall},
            "seconds": round(self.seconds, 3),
        }


def replay(
    run: Run,
    strategies: Sequence[Strategy] = COMPARED,
    *,
    seeds: int = 50,
    max_measurements: int = 32,
    problems: Sequence[str] = (),
    sample: bool = False,
    batch: int = BATCH,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Replay:
    """Search every study of a run again, from what it has measured.

    Args:
        strategies: who searches; each once.
        seeds: searches a strategy; a strategy without randomness is run once.
        max_measurements: the budget of one search.
        problems: texts of the studies' problems; all of them when none is named.
        sample: accept studies that measured a part of their space; see :meth:`ReplaySpace.of`.
        batch: rows drawn at a time.
        progress: told how many searches are done, of how many.

    Raises:
        ValueError: a bad number, no such problem, or a study that is not finished or was not
            exhaustive.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise ValueError(f"seeds = {seeds}: must lie in 1..{MAX_SEEDS}: correct it")
    if max_measurements < 1:
        raise ValueError(f"max_measurements = {max_measurements}: must be at least 1: correct it")
    chosen = _chosen(run, problems, sample)
    spaces = [ReplaySpace.of(study, sample=sample) for study in chosen]
    begun = time.monotonic()
    strategies = tuple(dict.fromkeys(strategies))
    needed = {one: seeds if STRATEGIES[one].seeded else 1 for one in strategies}
    done, total = 0, len(spaces) * sum(needed.values())
    studies: list[StudyReplay] = []
    walked: dict[Strategy, list[tuple[ReplaySpace, Walk]]] = {one: [] for one in strategies}

    def length(strategy: Strategy, *among: ReplaySpace) -> int:
        whole = max(len(space.outcomes) for space in among)
        return whole if strategy is Strategy.EXHAUSTIVE else min(max_measurements, whole)

    with quiet_optuna():
        for space in spaces:
            curves = []
            for one in strategies:
                walks = []
                for seed in range(needed[one]):
                    walks.append((space, space.walk(one, seed, max_measurements, batch)))
                    done += 1
                    progress(done, total)
                curves.append(_curve(one, walks, length(one, space)))
                walked[one] += walks
            studies.append(StudyReplay(space=space, curves=tuple(curves)))
    return Replay(
        run=run,
        seeds=seeds,
        max_measurements=max_measurements,
        batch=batch,
        studies=tuple(studies),
        overall=tuple(_curve(one, walks, length(one, *spaces)) for one, walks in walked.items()),
        # What changed since does not keep the past from being searched again; it is told.
        stale=tuple(stale_lines(replace(run, studies=tuple(chosen)))),
        seconds=time.monotonic() - begun,
    )


def _chosen(run: Run, problems: Sequence[str], sample: bool) -> list[StudyRecord]:
    known = {str(study.problem): study for study in run.studies}
    for problem in problems:
        if problem not in known:
            raise ValueError(
                f"{run.folder} has no study of {problem!r:.80}: choose one of "
                f"{', '.join(list(known)[:5])}"
            )
    studies = [s for s in run.studies if not problems or str(s.problem) in problems]
    if not studies:
        raise ValueError(f"{run.folder} holds no study yet: finish its sweep first")
    chose = run.plan["strategy"]
    if sample and chose not in (Strategy.RANDOM.value, Strategy.EXHAUSTIVE.value):
        raise ValueError(
            f"{run.folder}: what was measured was chosen by {chose}, which is no fair sample: "
            "replay a sweep with strategy: random or exhaustive"
        )
    return studies


def _curve(strategy: Strategy, walks: Sequence[tuple[ReplaySpace, Walk]], length: int) -> Curve:
    """Percentiles over walks; one that has ended keeps the best that it found."""
    table: F64 = np.zeros((len(walks), length))
    failures: Counter[Status] = Counter()
    early = 0
    for line, (space, walk) in enumerate(walks):
        fractions = walk.fractions
        table[line, : len(fractions)] = fractions
        table[line, len(fractions) :] = fractions[-1]
        failures.update(
            space.outcomes[row].status for row in walk.rows if space.outcomes[row].value is None
        )
        early += walk.stopped.startswith("an improvement")
    p10, median, p90 = np.percentile(table, (10, 50, 90), axis=0)
    counts = np.percentile([len(walk.rows) for _, walk in walks], (10, 50, 90))
    low, middle, high = (round(float(count)) for count in counts)
    return Curve(
        strategy=strategy,
        median=tuple(median.tolist()),
        p10=tuple(p10.tolist()),
        p90=tuple(p90.tolist()),
        measurements=(low, middle, high),
        stopped_early=early / len(walks),
        failures={status.value: count / len(walks) for status, count in failures.items()},
    )
