"""The parts of a sweep file: what is asked for, how it is searched and where it is measured."""

import os
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
)

from tiles.intake import nearest, shown
from tiles.problems import MAX_EXTENT, parse_problem
from workbench.edge import StrictEntry
from workbench.time_limit import parse_time_limit

__all__ = [
    "KINDS",
    "AnyEntry",
    "Entry",
    "MeasureEntry",
    "ModelEntry",
    "PathText",
    "ProblemEntry",
    "SearchEntry",
    "ShapeEntry",
    "beside",
]

_MODEL, _SHAPE, _PROBLEM = "model entry", "shape entry", "problem entry"
#: How complaints call a problem entry.
KINDS = frozenset((_MODEL, _SHAPE, _PROBLEM))


def _time_limit(value: Any) -> Any:
    """Looked at before its type is: seconds without their letter are a number."""
    parse_time_limit(value)
    return value


def _written_out(path: str) -> str:
    """Nobody expands a tilde in a file: it would be a folder of that name."""
    if path.startswith("~"):
        raise ValueError(f"{shown(path)}: ~ stands for no home here: write the whole path")
    return path


def beside(value: str, info: ValidationInfo) -> str:
    """A path relative to the sweep file's folder, made absolute when the folder is known."""
    folder = (info.context or {}).get("folder")
    return value if folder is None else os.path.normpath(os.path.join(folder, value))


#: No control characters: they have no place in a path and would break a one-line message.
PathText = Annotated[
    str,
    Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$"),
    AfterValidator(_written_out),
]
_Extent = Annotated[int, Field(ge=1, le=MAX_EXTENT)]


class ModelEntry(StrictEntry):
    """The linear layers of a model, for each number of tokens."""

    model: Annotated[PathText, AfterValidator(beside)]
    tokens: Annotated[list[_Extent], Field(min_length=1, max_length=256)]
    tp: Annotated[int, Field(ge=1, le=4096)] = 1


class ShapeEntry(StrictEntry):
    """One product by its M, N and K."""

    shape: Annotated[list[_Extent], Field(min_length=3, max_length=3)]


def _problem_text(text: str) -> str:
    parse_problem(text)
    return text


class ProblemEntry(StrictEntry):
    """One problem of any kind by its text, formats included: recipes and ``out`` leave it alone."""

    problem: Annotated[str, Field(max_length=200), AfterValidator(_problem_text)]


class SearchEntry(StrictEntry):
    """How configurations are searched."""

    strategy: Literal["hybrid", "model", "tpe", "random", "stratified", "exhaustive"] = "hybrid"
    max_measurements: Annotated[int, Field(ge=1, le=1_000_000)] = 32  #: per study
    time_limit: Annotated[str, BeforeValidator(_time_limit)] = "30m"  #: of the whole sweep
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class MeasureEntry(StrictEntry):
    """Where and in which state of the caches configurations are timed."""

    on: Literal["auto", "gpu", "sim"] = "auto"  #: auto: gpu where there is one, else sim
    cache: Literal["cold", "warm"] = "cold"


def _entry_kind(value: Any) -> str | None:
    """Which kind of problem entry was meant, so that its mistakes are told in its own terms.

    ``None`` where nothing says so.
    """
    if isinstance(value, ShapeEntry):
        return _SHAPE
    if isinstance(value, ProblemEntry):
        return _PROBLEM
    if not isinstance(value, dict):
        return _MODEL
    if "shape" in value:
        return _SHAPE
    if any(key in value for key in ModelEntry.model_fields):
        return _MODEL
    if "problem" in value:
        return _PROBLEM
    kinds = (_SHAPE, _PROBLEM, _MODEL)
    near = (kind for kind in kinds for key in value if nearest(key, kind.split()[:1]))
    return next(near, None)


AnyEntry = ModelEntry | ShapeEntry | ProblemEntry
#: One of them, told apart before it is read.
Entry = Annotated[
    Annotated[ModelEntry, Tag(_MODEL)]
    | Annotated[ShapeEntry, Tag(_SHAPE)]
    | Annotated[ProblemEntry, Tag(_PROBLEM)],
    Discriminator(_entry_kind),
]
