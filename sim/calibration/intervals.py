"""Intervals of a calibration's families, from errors on shapes that were left out of the fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.calibration.conformal import EVERY, stratum_widths, student_width
from sim.calibration.observations import Observations
from sim.calibration.record import FamilyCalibration, element_name
from sim.prediction import PricedTable
from tiles.problems import Problem

__all__ = ["elements_of", "extents_of", "widenings", "with_intervals"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


def extents_of(problems: Sequence[Problem]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Least and most by axis, by kind of problem."""
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for one in problems:
        kinds.setdefault(one.kind, []).append(one.shape)
    return {
        kind: tuple((min(axis), max(axis)) for axis in zip(*shapes, strict=True))
        for kind, shapes in kinds.items()
    }


def elements_of(problems: Sequence[Problem]) -> tuple[str, ...]:
    """Their elements, sorted."""
    return tuple(sorted({element_name(one) for one in problems}))


def widenings(
    families: Mapping[str, FamilyCalibration], observations: Observations, folds: I64
) -> F64:
    """(rows,) how much wider each row's interval would be by what is left when its fold is out.

    Left-out shapes lie beyond the others as shapes to come lie beyond all: an error counts in
    units of the widening that it would have had, or extrapolation would be paid for twice.
    """
    widenings = np.ones(len(observations))
    fold_of = [int(folds[rows.start]) for rows in observations.slices]
    for place, one in enumerate(observations.tables):
        others = [
            other.problem
            for other, fold in zip(observations.tables, fold_of, strict=True)
            if other.kernel.name == one.kernel.name and fold != fold_of[place]
        ]
        left = replace(
            families[one.kernel.name], extents=extents_of(others), elements=elements_of(others)
        )
        widenings[observations.slices[place]] = left.beyond(one.problem)[1]
    return widenings


def with_intervals(
    families: Mapping[str, FamilyCalibration],
    observations: Observations,
    priced: Sequence[PricedTable],
    held_out: F64,
    folds: I64,
) -> dict[str, FamilyCalibration]:
    """With widths: of a family's own shapes where they are enough, else of all families'.

    Where all together are too few, too, errors are taken for normal.

    Args:
        priced: the observations' tables at the fit.
        held_out: (rows,) log of measured over predicted by fits without a row's fold.
        folds: (rows,) the fold of each row's shape.
    """
    strata = [_strata(one) for one in priced]
    bindings = np.array([binding for found, _ in strata for binding in found])
    elements = np.array([element for _, found in strata for element in found])
    owners = np.repeat([one.kernel.name for one in observations.tables], [len(p) for p in priced])
    scores, shapes = held_out / widenings(families, observations, folds), observations.shapes

    def widths(rows: Bool) -> dict[str, float]:
        return stratum_widths(
            bindings[rows].tolist(), elements[rows].tolist(), scores[rows], shapes[rows]
        )

    def normal(rows: Bool) -> dict[str, float]:
        width = student_width(scores[rows], shapes[rows])
        return {f"{EVERY} {EVERY}": width} if math.isfinite(width) else {}

    every = np.ones(len(owners), np.bool_)
    everyones, normals = widths(every), normal(every)
    found = {}
    for name, one in families.items():
        mine = owners == name
        chosen = widths(mine) or everyones or normal(mine) or normals
        found[name] = replace(one, widths=chosen)
    return found


def _strata(one: PricedTable) -> tuple[list[str], list[str]]:
    """What binds each row, and the elements of its operands."""
    terms = list(one.terms_us)
    most = np.argmax(np.stack(list(one.terms_us.values())), axis=0)
    return [terms[place] for place in most.tolist()], [element_name(one.problem)] * len(one)
