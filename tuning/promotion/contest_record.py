"""What a study of a promotion holds: its trials, and what was decided of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from tiles.kernels import TileConfig
from tuning.family import family
from tuning.plan import Plan, StudyPlan
from tuning.promotion.contest import Contest, Side, Verdict
from tuning.run_storage import RunStorage
from tuning.timing import Timing

__all__ = ["ContestRecord", "write_verdict"]

#: Study attribute: which of its trials lost a contest and why, and times in turns of all.
ATTRIBUTE = "promotion"


class ContestRecord:
    """A study's trials and what was decided of them."""

    def __init__(self, plan: Plan, study: StudyPlan, storage: RunStorage) -> None:
        self._storage = storage
        self._id = storage.get_study_id_from_name(plan.study_name(study))
        self._config = family(study.kernel).config_type
        self.trials: dict[TileConfig, FrozenTrial] = {}
        for trial in storage.get_all_trials(self._id, deepcopy=False):
            if "measurement" in trial.user_attrs:
                self.trials.setdefault(self._config.from_dict(trial.params), trial)

    @property
    def turns(self) -> Any:
        """Times in turns of the contest's right ones, or why there are none; None: not yet."""
        return self._attributes.get(ATTRIBUTE, {}).get("turns")

    @property
    def _attributes(self) -> Mapping[str, Any]:
        storage: BaseStorage = self._storage
        return storage.get_study_user_attrs(self._id)

    def keep(self, content: dict[str, Any]) -> None:
        """Write down what was decided, unless that is there."""
        if self._attributes.get(ATTRIBUTE) != content:
            self._storage.set_study_user_attr(self._id, ATTRIBUTE, content)


def write_verdict(
    contest: Contest,
    verdict: Verdict,
    sides: Sequence[Side],
    turns: Sequence[Timing] | str,
    records: Mapping[StudyPlan, ContestRecord],
) -> None:
    """Write down which trials lost and why, with all times in turns.

    The first study's record comes last: with it the contest is decided.
    """
    winner = verdict.winner
    told: Any = (
        turns
        if isinstance(turns, str)
        else [
            {"time_us": t.time_us, "samples_us": list(t.samples_us), "timing": t.timing}
            for t in turns
        ]
    )
    for study in reversed(contest.studies):
        record = records[study]
        lost: dict[str, str] = {}
        timings: dict[str, Any] = {}
        for side in sides:
            trial = record.trials.get(side.contender.config)
            if side.contender.kernel != study.kernel or trial is None or not side.right:
                continue
            if turns and not isinstance(turns, str):
                timings[str(trial.number)] = {
                    "time_us": side.time_us,
                    "samples_us": list(side.samples_us),
                    "timing": side.timing,
                }
            if winner is None or side.contender != winner.contender:
                lost[str(trial.number)] = f"lost its contest: {verdict.reason}"
        for side in sides:  # right by itself, yet not timed in turns
            trial = record.trials.get(side.contender.config)
            if side.contender.kernel == study.kernel and trial is not None and not side.right:
                lost[str(trial.number)] = f"lost its contest: {side.reason}"
        content: dict[str, Any] = {"lost": lost, "timings": timings}
        if study == contest.studies[0]:
            content["turns"] = told
        record.keep(content)
