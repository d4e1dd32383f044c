"""All pairs under all recipes: fp32 first, then each recipe on a fresh copy of the model."""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, cast

import torch
from torch import nn

from bench.accuracy.agreement import Stored, agreement
from bench.accuracy.coverage import CRITERION
from bench.accuracy.outliers import outliers
from bench.accuracy.quantizer import Quantized, Quantizer
from bench.accuracy.record import BASELINE, AccuracyRecord, Row, Status
from bench.accuracy.task import Pair

__all__ = ["measure_all"]

#: What a model or a quantiser that breaks raises; what else is raised is not theirs.
_BREAKS = (
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


def measure_all(
    pairs: Sequence[Pair],
    recipes: Sequence[str],
    quantizer: Quantizer | None,
    record: AccuracyRecord,
    *,
    scheme: str = "standard",
    tuned: bool = False,
    criterion: float = CRITERION,
    device: str = "cpu",
    twins: Collection[str] = (),
    tell: Callable[[Row, str], None] = lambda row, what: None,
) -> list[Row]:
    """Measure what the record lacks, pair after pair; what a run was cut off in comes last.

    Args:
        recipes: "fp32" is measured in any case, first.
        quantizer: may be ``None`` where nothing but fp32 is asked for.
        tuned: the quantiser is given the pair's own score and may leave operators in fp32 until
            the criterion holds.
        twins: names of pairs whose quantised models are computed on the CPU, too.
        tell: called with every row and "kept" or "measured".
    Returns:
        The rows asked for.
    Raises:
        ValueError: recipes without a quantiser.
    """
    asked = [recipe for recipe in dict.fromkeys(recipes) if recipe != BASELINE]
    if asked and quantizer is None:
        raise ValueError(f"{', '.join(asked)}: no quantiser is given")
    digests = {pair.name: pair.digest() for pair in pairs}
    planned: list[tuple[Pair, Row]] = []
    for pair in pairs:
        record.open_pair(pair.name, digests[pair.name], pair.card().to_dict())
        planned.append((pair, _row(pair, BASELINE, digests[pair.name])))
        for recipe in asked:
            row = _row(pair, recipe, digests[pair.name])
            digest = quantizer.digest if quantizer else ""
            planned.append((pair, replace(row, scheme=scheme, tuned=tuned, quantizer=digest)))
    planned.sort(key=lambda one: one[1].recipe != BASELINE and record.cut_off(one[1]))
    found = []
    for pair, row in planned:
        kept = record.find(row)
        if kept is None:
            base = record.find(_row(pair, BASELINE, row.digest))
            record.begin(row)
            row = _measured(pair, row, base, quantizer, criterion, device, twin=pair.name in twins)
            if row.recipe == BASELINE and row.status is Status.SCORED:
                record.cards[pair.name]["outliers"] = _spread(pair)
        found.append(record.end(row) if kept is None else kept)
        tell(found[-1], "measured" if kept is None else "kept")
    return found


def _row(pair: Pair, recipe: str, digest: str) -> Row:
    """A row to be measured, of fp32 as it stands."""
    return Row(
        pair=pair.name,
        family=pair.family,
        recipe=recipe,
        scheme="",
        tuned=False,
        digest=digest,
        quantizer="",
        status=Status.FAILED,
    )


def _measured(
    pair: Pair,
    row: Row,
    base: Row | None,
    quantizer: Quantizer | None,
    criterion: float,
    device: str,
    *,
    twin: bool,
) -> Row:
    begin = time.perf_counter()
    fp32 = base.score if base else None
    try:
        model = pair.model().to(device)
        made: Quantized | None = None
        if row.recipe != BASELINE and quantizer is not None:
            made = _quantized(pair, row, model, quantizer, criterion, device)
            model = made.model
        score = pair.score(model)
        row = replace(row, ran=dict(getattr(made, "ran", {})))
        if made is not None and twin:
            found = agreement(
                cast("Stored", made), row.recipe, pair.model(), pair.calibration()[0], device
            )
            row = replace(row, apart=found.apart, noise=found.noise)
    except ValueError as error:
        row = replace(row, status=Status.REFUSED, reason=_reason(error))
    except _BREAKS as error:
        row = replace(row, status=Status.FAILED, reason=_reason(error))
    else:
        if math.isfinite(score):
            fp32 = score if row.recipe == BASELINE else fp32
            row = replace(row, status=Status.SCORED, score=score)
        else:
            row = replace(row, status=Status.FAILED, reason=f"the score is {score}")
    return replace(row, fp32=fp32, seconds=round(time.perf_counter() - begin, 2))


def _quantized(
    pair: Pair, row: Row, model: nn.Module, quantizer: Quantizer, criterion: float, device: str
) -> Quantized:
    calibration = [tuple(one.to(device) for one in batch) for batch in pair.calibration()]
    with torch.no_grad():
        return quantizer(
            model,
            row.recipe,
            calibration=calibration,
            scheme=row.scheme,
            score=pair.score if row.tuned else None,
            criterion=criterion,
        )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _spread(pair: Pair) -> dict[str, Any]:
    """Median and largest of the layers' outlier ratios, and where the largest is."""
    found = outliers(pair)
    worst = max(found, key=lambda name: found[name])
    return {
        "median": round(median(found.values()), 2),
        "largest": round(found[worst], 2),
        "layer": worst,
    }
