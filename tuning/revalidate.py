"""Measures stored winners again: the source, the driver or a version has changed since."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

from tiles.kernels import Status
from tiles.kernels.closure import source_digest
from tuning.bench import Bench
from tuning.candidates import Candidates
from tuning.plan import Plan
from tuning.records import Environment, Measurement, TrialRecord
from tuning.search import Progress
from tuning.staleness import changes
from tuning.strategies import LegalTable

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
) -> None:
    """Measure every study's winner and runners-up again; the other results do not count any more.

    The old outcomes stay in their trials, the new ones stand beside them in the study.
    """
    for index, study in enumerate(found):
        attributes = _attributes(plan, study, storage)
        if not attributes or study.priced is None:
            continue
        study_id = storage.get_study_id_from_name(plan.study_name(study.plan))
        again = _measure_again(plan, study, storage, study_id, attributes, bench, index, progress)
        storage.set_study_user_attr(study_id, "revalidated", again)
        storage.flush()


def _measure_again(
    plan: Plan,
    study: Candidates,
    storage: BaseStorage,
    study_id: int,
    attributes: Mapping[str, Any],
    bench: Bench,
    index: int,
    progress: Callable[[Progress], None],
) -> dict[str, Any]:
    assert study.priced is not None
    legal = LegalTable.of(study.priced)
    chosen = _winners(storage, study_id, attributes, legal)
    environment = bench.environment(study)
    outcomes: dict[int, Measurement] = {}
    for number, row in chosen.items():
        config = study.priced.table.config(row)
        outcome, read = bench.measure(study, config, environment.sm_clock_mhz is None)
        environment = read or environment
        outcomes[number] = outcome
        low, high = float(study.priced.low_us[row]), float(study.priced.high_us[row])
        record = TrialRecord(
            config=config,
            measurement=outcome,
            predicted_us=float(study.priced.time_us[row]),
            predicted_low_us=low,
            predicted_high_us=high,
        )
        progress(
            Progress(
                study=study.plan,
                index=index,
                studies=len(plan.studies),
                finished=len(outcomes),
                budget=len(chosen),
                trial=record,
                best=None,
            )
        )
    entries = {str(number): outcome.to_dict() for number, outcome in outcomes.items()}
    correct = [n for n, o in outcomes.items() if o.status is Status.CORRECT]
    if len(correct) > 1:
        timings = bench.compare(study, [study.priced.table.config(chosen[n]) for n in correct])
        if not isinstance(timings, str):
            for number, timing in zip(correct, timings, strict=True):
                entries[str(number)] |= {
                    "time_us": timing.time_us,
                    "samples_us": list(timing.samples_us),
                    "timing": f"{timing.timing}-interleaved",
                }
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "source": source_digest(study.kernel.template),
        "environment": environment.to_dict(),
        "measurements": entries,
    }


def _winners(
    storage: BaseStorage, study_id: int, attributes: Mapping[str, Any], legal: LegalTable
) -> dict[int, int]:
    """Trial number and row of the fastest CORRECT trials that are legal still, fastest first."""
    compared = attributes.get("compared", {}).get("timings", {})
    again = attributes.get("revalidated", {}).get("measurements", {})
    timed: list[tuple[float, int, int]] = []
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        row = legal.row(trial.params)
        key = str(trial.number)
        if "measurement" not in trial.user_attrs or row is None or (again and key not in again):
            continue
        outcome = {**trial.user_attrs["measurement"], **compared.get(key, {}), **again.get(key, {})}
        if outcome["time_us"] is not None:
            timed.append((outcome["time_us"], trial.number, row))
    timed.sort()
    limit = timed[0][0] * (1 + WITHIN) if timed else 0.0
    return {
        number: row
        for place, (time_us, number, row) in enumerate(timed[:AT_MOST])
        if place < AT_LEAST or time_us <= limit
    }
