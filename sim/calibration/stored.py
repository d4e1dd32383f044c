"""Residuals and families as JSON, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from sim.calibration.arrays import from_json, to_json
from sim.calibration.record import FamilyCalibration
from sim.calibration.residual import Residual
from sim.calibration.trees import Trees
from tiles.intake import shown

__all__ = ["family_from_dict", "family_to_dict"]

#: No correction or interval is larger in log time, nor an interval smaller.
LEAST_LOG, MOST_LOG = 1e-9, 10.0
#: Nor a mean error: a time and a prediction that are each positive doubles.
MOST_ERROR = 1500.0
#: Levels of a tree.
MOST_DEPTH = 64


def _plain(value: Any) -> Any:
    return to_json(value) if isinstance(value, np.ndarray) else value


def _record(one: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(one, field.name)) for field in fields(one)}


def _arrays(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: from_json(value) if isinstance(value, dict) and "base64" in value else value
        for name, value in data.items()
    }


def family_to_dict(family: FamilyCalibration) -> dict[str, Any]:
    """JSON-ready mapping, inverse of :func:`family_from_dict`."""
    residual = family.residual
    stored = None
    if residual is not None:
        trees = None if residual.trees is None else _record(residual.trees)
        stored = _record(residual) | {"names": list(residual.names), "trees": trees}
    return {
        **{field.name: getattr(family, field.name) for field in fields(family)},
        "extents": {kind: [list(r) for r in ranges] for kind, ranges in family.extents.items()},
        "elements": list(family.elements),
        "widths": dict(family.widths),
        "residual": stored,
    }


def _number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number of that range, NaN included."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not low <= value <= high:
        raise ValueError(f"{name} = {shown(value)} must be a number in {low:g}..{high:g}")


def _residual(data: Mapping[str, Any]) -> Residual:
    _number("a residual's clip", data["clip"], 0.0, MOST_LOG)
    _number("a residual's intercept", data["intercept"], -MOST_LOG, MOST_LOG)
    trees = None
    if data["trees"] is not None:
        _number("the base of trees", data["trees"]["base"], -MOST_LOG, MOST_LOG)
        _number("the depth of trees", data["trees"]["depth"], 0, MOST_DEPTH)
        trees = Trees(**_arrays(data["trees"]))
        nodes, columns = len(trees.feature), len(data["names"])
        ends = (trees.roots, trees.left, trees.right)
        if (
            not nodes
            or any(len(one) != nodes for one in (trees.threshold, trees.left, trees.right))
            or len(trees.value) != nodes
            or trees.feature.max() >= columns
            or any(one.max(initial=0) >= nodes for one in ends)
            or trees.roots.min(initial=0) < 0
        ):
            raise ValueError("trees whose nodes lead nowhere")
    read = Residual(**_arrays(data) | {"names": tuple(data["names"]), "trees": trees})
    columns = len(read.names)
    for name in ("low", "high", "scale", "mean"):
        if getattr(read, name).shape != (columns,):
            raise ValueError(f"a residual whose {name} has another length than its features")
    if trees is None and read.weights.shape != (columns,):
        raise ValueError("a residual without trees or weights")
    return read


def family_from_dict(data: Mapping[str, Any]) -> FamilyCalibration:
    """Read what :func:`family_to_dict` wrote.

    Raises:
        ValueError, TypeError, KeyError: it is no such mapping.
    """
    content = dict(data)
    residual = content["residual"]
    content["residual"] = None if residual is None else _residual(residual)
    for name in ("rows", "shapes"):
        if type(content[name]) is not int or content[name] < 1:
            raise ValueError(f"{name} = {shown(content[name])} must be a whole number from 1 on")
    for name in ("prior_error", "physics_error", "residual_error"):
        if name != "residual_error" or content[name] is not None:
            _number(name, content[name], 0.0, MOST_ERROR)
    content["extents"] = {
        kind: tuple((low, high) for low, high in ranges)
        for kind, ranges in content["extents"].items()
    }
    for kind, ranges in content["extents"].items():
        for low, high in ranges:
            if type(low) is not int or type(high) is not int or not 1 <= low <= high:
                raise ValueError(
                    f"extents {shown(low)}..{shown(high)} of {shown(kind)}: whole numbers, "
                    "1 <= low <= high"
                )
    elements = content["elements"]
    if not isinstance(elements, list) or not all(isinstance(one, str) for one in elements):
        raise ValueError(f"elements = {shown(elements)} must be a list of names")
    content["elements"] = tuple(elements)
    for text, width in content["widths"].items():
        _number(f"the interval of {shown(text)} in log time", width, LEAST_LOG, MOST_LOG)
    return FamilyCalibration(**content)
