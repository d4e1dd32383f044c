"""The studies of a run that do not ship, each with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.emission.winners import Slower

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import Run, StudyRecord

__all__ = ["NotEmitted", "not_emitted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotEmitted:
    """A study of the run's plan without an entry in the package."""

    kernel: str
    problem: str
    gpu: str
    reason: str
    has_winner: bool  #: a correct configuration was found, and left out


def _of(study: "StudyRecord", reason: str, *, has_winner: bool) -> NotEmitted:
    return NotEmitted(
        kernel=study.kernel,
        problem=str(study.problem),
        gpu=study.gpu,
        reason=reason,
        has_winner=has_winner,
    )


def _without_best(study: "StudyRecord") -> NotEmitted:
    """A study none of whose trials counts: nothing was correct, or what was lost to another."""
    correct = [one for one in study.trials if one.measurement.time_us is not None]
    if correct:
        fastest = min(correct, key=lambda one: one.measurement.time_us or 0.0)
        return _of(study, fastest.stale, has_winner=True)
    return _of(study, f"none of {len(study.trials)} trials was correct", has_winner=False)


def not_emitted(
    run: "Run",
    slower: Sequence[Slower],
    obstacle: "Callable[[StudyRecord, Gpu], str | None]",
) -> list[NotEmitted]:
    """What the run planned and the package does not hold.

    Args:
        run: the run that was emitted.
        slower: entries that another family beats on their problem.
        obstacle: why the target cannot hold a study's winner, or ``None``.
    """
    left = [_of(one.entry.study, str(one), has_winner=True) for one in slower]
    left += [
        _of(study, reason, has_winner=True)
        for study in run.studies
        if study.best is not None and (reason := obstacle(study, run.gpu)) is not None
    ]
    left += [_without_best(study) for study in run.studies if study.best is None]
    started = {(str(study.problem), study.kernel) for study in run.studies}
    left += [
        NotEmitted(
            kernel=study["kernel"],
            problem=study["problem"],
            gpu=run.gpu.name,
            reason="never searched",
            has_winner=False,
        )
        for study in run.plan.get("studies", ())
        if (study["problem"], study["kernel"]) not in started
    ]
    return left
