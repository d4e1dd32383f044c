"""Measures stored winners again: the source, the driver or a version has changed since."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from tiles.kernels.closure import source_digest
from tuning.bench import Bench
from tuning.candidates import Candidates
from tuning.interrupts import Interrupts
from tuning.objective import Objective
from tuning.plan import Plan
from tuning.records import Environment, TrialRecord
from tuning.search import Progress
from tuning.staleness import changes
from tuning.strategies import LegalTable
from tuning.validity import Validity

if TYPE_CHECKING:
    from tuning.fleet_storage import FleetStorage
    from tuning.run_storage import RunStorage

__all__ = ["refuse_stale", "revalidate"]

#: The best so many of a study are measured again, and those as fast as the best within a share.
AT_LEAST, AT_MOST, WITHIN = 5, 12, 0.03


def _attributes(plan: Plan, study: Candidates, storage: BaseStorage) -> Mapping[str, Any]:
    try:
        study_id = storage.get_study_id_from_name(plan.study_name(study.plan))
    except KeyError:
        return {}
    return storage.get_study_user_attrs(study_id)


def refuse_stale(
    plan: Plan, found: Sequence[Candidates], storage: BaseStorage, bench: Bench
) -> None:
    """Look whether what is stored was measured as it would be measured now.

    Raises:
        ValueError: something changed since.
    """
    for study in found:
        attributes = _attributes(plan, study, storage)
        stored = attributes.get("revalidated", attributes).get("environment")
        if stored is None:
            continue
        backend = study.kernel.backend
        changed = changes(Environment.from_dict(stored), bench.environment(study), backend)
        if changed:
            raise ValueError(
                f"{plan.folder}: {study.plan.problem} with {study.plan.kernel} is stale: "
                f"{', '.join(changed)}: measure its winners again with --revalidate, go on with "
                "old and new results together with --allow-stale, or sweep into another output"
            )


def revalidate(
    plan: Plan,
    found: Sequence[Candidates],
    storage: "RunStorage | FleetStorage",
    bench: Bench,
    progress: Callable[[Progress], None],
    interrupts: Interrupts,
) -> None:
    """Measure every study's winner and runners-up again; the other results do not count any more.

    The old outcomes stay in their trials, the new ones stand beside them in the study.  Each is
    stored as it comes: one that was interrupted goes on where it was left, and a study that was
    measured again under the present conditions is left alone.  Of several processes one measures
    a study; none times its near-ties in turns meanwhile.
    """
    left = list(enumerate(found))
    while left:
        left = [one for one in left if not _revalidated(plan, *one, storage, bench, progress)]
        if left:  # should the other process die, they are this one's
            with interrupts.let_through():
                time.sleep(storage.idle_s)


def _revalidated(
    plan: Plan,
    index: int,
    study: Candidates,
    storage: "RunStorage | FleetStorage",
    bench: Bench,
    progress: Callable[[Progress], None],
) -> bool:
    """Measure one study's winners again; False while another process is at it."""
    here = bench.environment(study)
    attributes = _attributes(plan, study, storage)
    if not attributes or study.priced is None:
        return True
    with storage.comparing(plan.study_name(study.plan)) as mine:
        if not mine:
            return False
        attributes = _attributes(plan, study, storage)  # it may have been done meanwhile
        if _holds(attributes.get("revalidated"), study, here):
            return True
        study_id = storage.get_study_id_from_name(plan.study_name(study.plan))
        begun = attributes.get("revalidating")
        if not _holds(begun, study, here):
            begun = None

        def keep(key: str, content: Mapping[str, Any]) -> None:
            storage.set_study_user_attr(study_id, key, dict(content))
            storage.flush()

        trials = storage.get_all_trials(study_id, deepcopy=False)
        again = _measure_again(plan, study, trials, attributes, begun, bench, index, progress, keep)
        keep("revalidated", again)
        keep("revalidating", {})
    return True


def _holds(done: Mapping[str, Any] | None, study: Candidates, here: Environment) -> bool:
    """True when what was measured again was measured as it would be now."""
    if not done or done["source"] != source_digest(study.kernel.template):
        return False
    return not changes(_environment(done), here, study.kernel.backend)


def _measure_again(
    plan: Plan,
    study: Candidates,
    trials: Sequence[FrozenTrial],
    attributes: Mapping[str, Any],
    begun: Mapping[str, Any] | None,
    bench: Bench,
    index: int,
    progress: Callable[[Progress], None],
    keep: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """What the study says of its revalidation, whose part done before is ``begun``."""
    assert study.priced is not None
    legal = study.legal_table(plan)
    chosen = _winners(trials, attributes, legal, plan.objective)
    environment = bench.environment(study) if begun is None else _environment(begun)
    entries: dict[str, dict[str, Any]] = {} if begun is None else dict(begun["measurements"])
    again: dict[str, Any] = {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "source": source_digest(study.kernel.template),
        "environment": environment.to_dict(),
        "before": len(trials),
        "waiting": [t.number for t in trials if _without_outcome(t)],
        "measurements": entries,
        "timings": {},
    }
    for done, (number, row) in enumerate(chosen.items(), start=1):
        if str(number) in entries:
            continue
        config = study.priced.table.config(row)
        outcome, read = bench.measure(study, config, environment.sm_clock_mhz is None)
        environment = read or environment
        entries[str(number)] = outcome.to_dict()
        keep("revalidating", again | {"environment": environment.to_dict()})
        record = TrialRecord(
            config=config,
            measurement=outcome,
            predicted_us=float(study.priced.time_us[row]),
            predicted_low_us=float(study.priced.low_us[row]),
            predicted_high_us=float(study.priced.high_us[row]),
            predicted_energy_mj=(
                None if plan.objective is Objective.TIME else float(legal.predicted[row])
            ),
        )
        progress(
            Progress(
                study=study.plan,
                index=index,
                studies=len(plan.studies),
                finished=done,
                budget=len(chosen),
                trial=record,
                best=None,
                objective=plan.objective,
            )
        )
    again["environment"] = environment.to_dict()
    correct = [n for n in chosen if plan.objective.of_stored(entries[str(n)]) is not None]
    if len(correct) > 1:
        timings = bench.compare(study, [study.priced.table.config(chosen[n]) for n in correct])
        if isinstance(timings, str):
            return again | {"not_compared": timings}
        again["timings"] = {
            str(number): timing.in_turns() for number, timing in zip(correct, timings, strict=True)
        }
    return again


def _without_outcome(trial: FrozenTrial) -> bool:
    """True of a trial that waits, or that another process measures now."""
    return not trial.state.is_finished() and "measurement" not in trial.user_attrs


def _environment(done: Mapping[str, Any]) -> Environment:
    return Environment.from_dict(done["environment"])


def _winners(
    trials: Sequence[FrozenTrial],
    attributes: Mapping[str, Any],
    legal: LegalTable,
    objective: Objective,
) -> dict[int, int]:
    """Trial number and row of the best CORRECT trials that count and are legal still."""
    validity = Validity.of(attributes)
    outpaced = validity.outpaced(trials, objective)
    found: list[tuple[float, int, int]] = []
    for trial in trials:
        row = legal.row(trial.params)
        if "measurement" not in trial.user_attrs or row is None or validity.stale(trial):
            continue
        value = objective.of_stored(validity.outcome(trial))
        if value is not None:
            found.append((value * outpaced.get(trial.number, 1.0), trial.number, row))
    found.sort()
    limit = found[0][0] * (1 + WITHIN) if found else 0.0
    return {
        number: row
        for place, (value, number, row) in enumerate(found[:AT_MOST])
        if place < AT_LEAST or value <= limit
    }
