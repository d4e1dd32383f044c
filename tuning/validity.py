"""Which of a study's stored outcomes count, and which of several outcomes of one trial holds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from optuna.trial import FrozenTrial

from tuning.objective import Objective

__all__ = ["Validity"]

_Outcomes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """What a study's attributes say of its trials' outcomes, trial by trial.

    A revalidation makes every outcome stale that was there before it, but for those that it
    measured again; what is measured later counts as ever.
    """

    date: str  #: of the last revalidation; "" when there was none
    before: float  #: trials from this number on are younger than the revalidation
    waiting: frozenset[int]  #: older ones without an outcome then: measured later
    again: _Outcomes  #: by trial number, outcomes of the revalidation
    again_in_turns: _Outcomes  #: what its near-ties' times in turns put in their place
    compared: _Outcomes  #: by trial number, what timing near-ties in turns puts in their place
    not_compared: str  #: why near-ties could not be timed in turns
    compared_later: bool  #: whether that was done after the revalidation
    lost: Mapping[str, str]  #: by trial number, why it lost to another entry in a promotion

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Self:
        """Read a study's attributes."""
        again = attributes.get("revalidated", {})
        compared = attributes.get("compared", {})
        # A record that does not say which trials it found is of a study that never went on.
        before = again.get("before", math.inf) if again else 0
        later = not again or compared.get("revalidation") == before
        # Rivals of a promotion took turns last, those of other families among them.
        promotion = attributes.get("promotion", {})
        return cls(
            date=again.get("date", ""),
            before=before,
            waiting=frozenset(again.get("waiting", ())),
            again=again.get("measurements", {}),
            again_in_turns=again.get("timings", {}),
            compared={**compared.get("timings", {}), **promotion.get("timings", {})},
            not_compared=(compared.get("failed", "") if later else again.get("not_compared", "")),
            compared_later=later,
            lost=promotion.get("lost", {}),
        )

    def stale(self, trial: FrozenTrial) -> str:
        """Why a trial's outcome does not count; "" while it does."""
        number = trial.number
        if str(number) in self.lost:
            return self.lost[str(number)]
        if str(number) in self.again:
            return ""
        if number < self.before and number not in self.waiting:
            return f"not measured again on {self.date}"
        return str(trial.user_attrs.get("stale", ""))

    def measured(self, trial: FrozenTrial) -> dict[str, Any]:
        """The outcome of a trial that has one, as it was measured last by itself."""
        return dict(self.again.get(str(trial.number), trial.user_attrs["measurement"]))

    def outcome(self, trial: FrozenTrial) -> dict[str, Any]:
        """The outcome of a trial that has one, with the times that were taken in turns."""
        in_turns = self.compared.get(str(trial.number), {})
        if self.compared_later:
            return {**self.measured(trial), **in_turns}
        stored = {**trial.user_attrs["measurement"], **in_turns}
        again = self.again.get(str(trial.number), stored)
        return {**again, **self.again_in_turns.get(str(trial.number), {})}

    def outpaced(self, trials: Iterable[FrozenTrial], objective: Objective) -> dict[int, float]:
        """Trials that were beaten before the near-ties took turns, by number.

        Times taken in turns are those of a GPU that is kept busy: where power binds they are some
        per cent longer than the same configuration's own.  So a trial that took no part may not be
        set against them; only one that was better by itself than all that took part, as a later
        one may be, still counts.

        Returns:
            What turns made of the best of the others: a trial's own time, or energy, times this
            can be set against theirs.
        """
        trials = list(trials)
        told = {trial.number: factor for trial in trials if (factor := self.outpaced_there(trial))}
        turned = self.compared if self.compared_later else self.again_in_turns
        alone = {
            trial.number: value
            for trial in trials
            if "measurement" in trial.user_attrs
            and trial.number not in told
            and not self.stale(trial)
            and (value := objective.of_stored(self.measured(trial))) is not None
            and value > 0  # another one is refused where its record is made
        }
        rivals = [
            (alone[trial.number], value)
            for trial in trials
            if trial.number in alone
            and str(trial.number) in turned
            and (value := objective.of_stored(self.outcome(trial))) is not None
        ]
        if not rivals:
            return told
        least, in_turns = min(rivals)
        return told | {
            number: in_turns / least
            for number, value in alone.items()
            if value >= least and str(number) not in turned
        }

    def outpaced_there(self, trial: FrozenTrial) -> float:
        """The same of an imported trial, as its file told; 0 once it was measured here."""
        number = str(trial.number)
        if number in self.again or number in self.compared:
            return 0.0
        return float(trial.user_attrs.get("outpaced", 0.0))
