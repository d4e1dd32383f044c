"""The accuracy-driven loop: operators fall back to high precision until the criterion holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from tiles.intake import shown
from workbench.ptq.criterion import holds, relative_loss
from workbench.ptq.operator import Operator

__all__ = ["Scores", "Trial", "check_reference", "number_of", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One score on the way."""

    action: str  #: "all quantised", "trained batch statistics", "fall back", "quantise again"
    operator: str  #: that was changed; empty for the first
    sensitivity: float | None  #: of that operator
    score: float
    loss: float  #: relative to the high-precision score
    holds: bool  #: whether the criterion does
    stays: bool  #: whether the change was left in place


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What the loop found."""

    reference: float  #: of the model in high precision
    quantized: float  #: with every operator of the scheme quantised
    final: float
    criterion: float
    trials: tuple[Trial, ...]

    @property
    def loss(self) -> float:
        """Relative loss of the final model; negative where it is better."""
        return relative_loss(self.reference, self.final)

    @property
    def holds(self) -> bool:
        """Whether the final model meets the criterion."""
        return holds(self.loss, self.criterion)


def number_of(score: Callable[[nn.Module], float], model: nn.Module) -> float:
    """The score of a model.

    Raises:
        ValueError: what ``score`` gives is no number.
    """
    found = score(model)
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:  # of a tensor of several: RuntimeError
        raise ValueError(
            f"score(model) gave {shown(found)}: it has to give one number, higher for better"
        ) from error


def check_reference(reference: float) -> None:
    """Refuse a score that no relative loss can be told from.

    Raises:
        ValueError: zero, or not finite.
    """
    if not math.isfinite(reference) or reference == 0:
        raise ValueError(
            f"the model in high precision scores {reference:g}: a relative criterion needs a "
            "finite score that is not zero; score it otherwise"
        )


def search(
    model: nn.Module,
    operators: list[Operator],
    score: Callable[[nn.Module], float],
    reference: float,
    criterion: float,
    *,
    changed: Callable[[], None] = lambda: None,
    renewing: Callable[[bool], None] | None = None,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> Scores:
    """Let operators fall back until the criterion holds, the most sensitive first.

    Batch statistics that were renewed are first tried as they were trained: what a small
    calibration loses by them no operator makes up for.

    The order is by the noise-to-signal ratio of each operator's own output on calibration data.
    When the criterion holds, those that fell back are quantised again one by one, the least
    sensitive first, and stay so where it still does.

    Args:
        operators: the quantised ones; ``kept`` of some is set.
        reference: score of the model in high precision.
        criterion: the largest relative loss.
        changed: called after operators changed, before the model is scored.
        renewing: says whether ``changed`` renews batch statistics; ``None``: there are none.
    """
    trials: list[Trial] = []

    def judged(action: str, operator: Operator | None) -> Trial:
        changed()
        found = number_of(score, model)
        loss = relative_loss(reference, found)
        return Trial(
            action=action,
            operator="" if operator is None else operator.name,
            sensitivity=None if operator is None else operator.noise.ratio,
            score=found,
            loss=loss,
            holds=holds(loss, criterion),
            stays=True,
        )

    def note(trial: Trial) -> Trial:
        trials.append(trial)
        progress(trial)
        return trial

    last = first = note(judged("all quantised", None))
    if renewing is not None and not first.holds:
        renewing(False)
        trial = judged("trained batch statistics", None)
        if trial.holds or trial.loss < first.loss:
            last = note(trial)
        else:
            renewing(True)
            note(replace(trial, stays=False))
    fallen: list[Operator] = []
    for operator in sorted(operators, key=lambda o: -o.noise.ratio):
        if last.holds:
            break
        operator.kept, before = "fell back", last
        last = note(judged("fall back", operator))
        operator.kept = (
            f"fell back: the loss was {100 * before.loss:.3g} % with it, "
            f"{100 * last.loss:.3g} % without"
        )
        fallen.append(operator)
    final = last
    # The one that brought the loss below the criterion last is needed by definition.
    for operator in reversed(fallen[:-1] if last.holds else []):
        reason, operator.kept = operator.kept, ""
        trial = judged("quantise again", operator)
        if trial.holds:
            final = note(trial)
            continue
        operator.kept = reason
        note(replace(trial, stays=False))
    changed()
    return Scores(
        reference=reference,
        quantized=first.score,
        final=final.score,
        criterion=criterion,
        trials=tuple(trials),
    )
