"""Figures of a GPT trained under several recipes, from the losses of its runs."""

from bench.papers.figures import TRAINING, Figure, Measured, record
from bench.train_gpt.outcome import Outcome, Status
from bench.train_gpt.paired import Comparison, compare

__all__ = ["apart", "trained"]


def _compared(recipe: str, baseline: str) -> tuple[Comparison, Figure]:
    """Held-out losses of a recipe by a baseline's, seed by seed."""
    runs = [Outcome.from_dict(one) for one in record(TRAINING)["runs"]]
    found = compare(runs, recipe, baseline)
    places = {one.run: f"/runs/{index}/loss" for index, one in enumerate(runs)}
    losses = {(run.recipe, run.seed): place for run, place in places.items()}
    if found.mean is None:
        raise ValueError(f"{TRAINING}: no pair of {recipe} and {baseline} has finished")
    figure = Figure(
        what=f"{recipe}: held-out loss relative to {baseline}'s, mean of {len(found.seeds)} seeds",
        value=found.mean,
        error=found.standard_error,
        source=TRAINING,
        at=tuple(losses[name, seed] for seed in found.seeds for name in (recipe, baseline)),
        rule="paired",
    )
    return found, figure


def _told(figure: Figure) -> str:
    error = "" if figure.error is None else f" ± {100 * figure.error:.2f}"
    return f"{100 * figure.value:+.2f}{error} %"


def _trained_model() -> str:
    content = record(TRAINING)
    millions = content["parameters"] / 1e6
    return f"GPT of {millions:.0f} million parameters, {content['settings']['steps']} steps, H200"


def trained(*recipes: str, baseline: str, criterion: float) -> Measured:
    """Held-out losses to a baseline's, and which of them are not within a criterion."""
    parts, figures, outside = [], list[Figure](), []
    for recipe in recipes:
        found, figure = _compared(recipe, baseline)
        figures.append(figure)
        unfinished = sum(
            Status(one["status"]) is not Status.FINISHED
            for one in record(TRAINING)["runs"]
            if one["recipe"] == recipe
        )
        seeds = f"{len(found.seeds)} seeds" + (f", {unfinished} unfinished" * bool(unfinished))
        parts.append(f"{recipe} {_told(figure)} ({seeds})")
        if abs(figure.value) > criterion:
            outside.append(recipe)
    percent = f"{100 * criterion:g} %"
    verdict = f"means all within {percent}" if not outside else f"means not within {percent}: "
    text = (
        f"{_trained_model()}, held-out loss to {baseline}'s, mean and standard error: "
        f"{', '.join(parts)}; {verdict}{', '.join(outside)} ([training][t])"
    )
    return Measured(text=text, figures=tuple(figures))


def apart(recipe: str, *others: str) -> Measured:
    """A recipe's losses to those of others, and whether any difference exceeds its uncertainty."""
    parts, figures, seen = [], list[Figure](), []
    for other in others:
        found, figure = _compared(recipe, other)
        figures.append(figure)
        parts.append(f"to {other}'s {_told(figure)}")
        low, high = found.interval or (-1.0, 1.0)
        if low > 0 or high < 0:
            seen.append(other)
    verdict = f"beyond chance to {', '.join(seen)}" if seen else "none beyond chance"
    text = (
        f"{_trained_model()}, held-out loss of {recipe}: {', '.join(parts)}; by the 95 % "
        f"intervals {verdict} ([training][t])"
    )
    return Measured(text=text, figures=tuple(figures))
