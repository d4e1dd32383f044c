"""Every predictor over every split: one score each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.predictor import Kind, Predicted, Predictor
from sim.evaluation.score import Score, score
from sim.evaluation.splits import Fold, Split, folds
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["ScoredRow", "SkippedSplit", "answers_of", "evaluate"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """One line of the evaluation."""

    predictor: str
    kind: Kind
    split: Split | None  #: None where nothing was fitted: the same whatever is held out
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedSplit:
    """A split that the tables do not allow."""

    split: Split
    reason: str


def evaluate(
    tables: Sequence[MeasuredTable],
    gpu: Gpu,
    predictors: Sequence[Predictor],
    splits: Sequence[Split],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
    answered: Callable[[ScoredRow, Sequence[Predicted | None]], None] = lambda row, answers: None,
) -> tuple[list[ScoredRow], list[SkippedSplit]]:
    """Judge predictors by measured tables, the ones that learn on what is held out alone.

    Rows of all folds of a split are judged together: each has one answer, of a predictor that was
    fitted without it.  Tables that were in view when the model's constants were set are learned
    from and never judged.

    Args:
        tables: measured on the GPU that ``gpu`` describes; at least one not in view.
        seed: of splits by rows and of bootstraps.
        progress: told how many scores are done, of how many.
        answered: told each score with the answers for the judged tables that it is of.

    Raises:
        ValueError: there is no table to judge by.
    """
    judged = [one for one in tables if not one.in_view]
    if not judged:
        raise ValueError(
            "every table was in view when the model's constants were set: give one to judge by"
        )
    parts = {split: folds(tables, split, seed=seed) for split in splits}
    fitted = [one for one in predictors if one.kind is Kind.FITTED]
    total = len(predictors) - len(fitted) + len(fitted) * sum(map(bool, parts.values()))
    rows: list[ScoredRow] = []
    for one in predictors:
        if one.kind is Kind.FITTED:
            continue
        answers = [_ask(one, table, gpu) for table in judged]
        rows.append(_scored(one, None, judged, answers, seed))
        answered(rows[-1], answers)
        progress(len(rows), total)
    skipped = []
    for split, found in parts.items():
        if not found:
            reason = "the tables are all of one kind: nothing would be left to fit with"
            skipped.append(SkippedSplit(split=split, reason=reason))
        for one in fitted if found else ():
            answers = answers_of(one, tables, found, gpu)
            rows.append(_scored(one, split, judged, answers, seed))
            answered(rows[-1], answers)
            progress(len(rows), total)
    return rows, skipped


def answers_of(
    predictor: Predictor, tables: Sequence[MeasuredTable], parts: Sequence[Fold], gpu: Gpu
) -> list[Predicted | None]:
    """A fitted predictor's answers for the judged tables, every row's from a fold without it.

    Args:
        tables: all of them, in the order that the folds number.
        parts: folds that hold out every judged row once.
    """
    gathered: dict[int, list[tuple[NDArray[np.int64], Predicted | None]]] = {}
    for fold in parts:
        predictor.fit(fold.train, gpu)
        for index, rows in fold.held_out:
            answer = _ask(predictor, tables[index].take(rows), gpu)
            gathered.setdefault(index, []).append((rows, answer))
    return [
        _together(len(one), gathered[index])
        for index, one in enumerate(tables)
        if index in gathered
    ]


def _ask(predictor: Predictor, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
    seen = table if predictor.kind is Kind.REFERENCE else table.blinded()
    return predictor.predict(seen, gpu)


def _together(
    rows: int, pieces: Sequence[tuple[NDArray[np.int64], Predicted | None]]
) -> Predicted | None:
    """Answers for parts of a table as one; intervals where every part has them."""
    answers = [(at, answer) for at, answer in pieces if answer is not None]
    if len(answers) < len(pieces):
        return None

    def joined(columns: list[tuple[NDArray[np.int64], F64 | None]]) -> F64 | None:
        whole = np.full(rows, np.nan)
        for at, column in columns:
            if column is None:
                return None
            whole[at] = column
        return whole

    times = joined([(at, answer.time_us) for at, answer in answers])
    assert times is not None
    return Predicted(
        time_us=times,
        low_us=joined([(at, answer.low_us) for at, answer in answers]),
        high_us=joined([(at, answer.high_us) for at, answer in answers]),
    )


def _scored(
    predictor: Predictor,
    split: Split | None,
    judged: Sequence[MeasuredTable],
    answers: Sequence[Predicted | None],
    seed: int,
) -> ScoredRow:
    return ScoredRow(
        predictor=predictor.name,
        kind=predictor.kind,
        split=split,
        score=score(judged, answers, predictor.kind, seed=seed),
    )
