"""What a search writes down of a study beside its trials."""

from collections.abc import Mapping
from typing import Any

import optuna

from tuning.records import Environment
from tuning.timing import Timing
from tuning.validity import Validity

__all__ = ["StudyAttributes"]


class StudyAttributes:
    """An optuna study's attributes: where it was measured, its near-ties in turns, its end."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        #: Which of its trials count.
        self.validity = Validity.of(study.user_attrs)

    def compared(self, finished: int) -> bool:
        """True when the ties among so many outcomes, all that there are, were timed in turns."""
        stored = self._study.user_attrs.get("compared")
        return stored is not None and stored["finished"] == finished

    def store_comparison(
        self, timings: Mapping[int, Timing], finished: int, failed: str = ""
    ) -> None:
        """Replace the samples of tied trials (by number) with those taken in turns.

        Args:
            finished: outcomes that there are.
            failed: why some or all have none; they then rest on samples taken apart.
        """
        entries = {str(number): timing.in_turns() for number, timing in timings.items()}
        comparison: dict[str, Any] = {"finished": finished, "timings": entries, "failed": failed}
        if self.validity.date:  # so that its times are known to be younger
            comparison["revalidation"] = self.validity.before
        self._study.set_user_attr("compared", comparison)

    def put_comparison_off(self, reason: str) -> None:
        """Say why ties are not timed in turns now; the next one that can does it.

        Those that were timed in turns before keep these times.
        """
        if "compared" not in self._study.user_attrs:
            later = {"finished": -1, "timings": {}, "failed": reason}
            self._study.set_user_attr("compared", later)

    @property
    def has_environment(self) -> bool:
        """True when it is recorded where this study was measured."""
        return "environment" in self._study.user_attrs

    def store_environment(self, environment: Environment) -> None:
        """Record where this study was measured."""
        self._study.set_user_attr("environment", environment.to_dict())

    def store_end(self, stopped: str) -> None:
        """Record why the search ended."""
        if self._study.user_attrs.get("stopped") != stopped:
            self._study.set_user_attr("stopped", stopped)
