"""Data sets on disk: run folders as sweeps leave them, and files of measured tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.foretold import FORETOLD_FILE, Foretold, read_foretold
from sim.measured import MeasuredTable
from sim.measured_file import MEASUREMENTS_FILE, read_measured
from tuning.measured_runs import measured_run
from tuning.stored_plan import PLAN_FILE

__all__ = ["DataSet", "load_data_sets"]

#: Folders below the given one that are looked through for sets.
_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """The tables of one folder or file."""

    path: Path
    tables: tuple[MeasuredTable, ...]
    left_out: tuple[str, ...] = ()  #: what of a run could not become a row, a line a study
    stale: tuple[str, ...] = ()  #: a line a study that rests on what has changed since
    #: What was predicted before the tables were measured, one of each; empty where not kept.  Such
    #: tables hold what a search chose by these predictions.
    foretold: tuple[Foretold, ...] = ()


def load_data_sets(paths: Sequence[Path]) -> list[DataSet]:
    """Read every data set at, or below, the given paths.

    A path is a file of measured tables, the folder of one, a run folder, or a folder of such
    folders.  A set that two paths lead to is read once.

    Raises:
        ValueError: nothing there, a set is damaged or simulated, or they are of several GPUs.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = _sets(path, _DEPTH)
        if not below:
            raise ValueError(
                f"{path}: no data set there: name a run folder, or one with {MEASUREMENTS_FILE}"
                if path.exists()
                else f"{path}: no such folder: name data sets with --data"
            )
        found.update({one.resolve(): one for one in below})
    sets = [_load(one) for one in found.values()]
    gpus: dict[str, Path] = {}
    for one in sets:
        for table in one.tables:
            gpus.setdefault(table.gpu, one.path)
    if len(gpus) > 1:
        (first, at), (other, there), *_ = gpus.items()
        raise ValueError(
            f"{there} was measured on {other}, {at} on {first}: give sets of one GPU at a time"
        )
    return sets


def _sets(path: Path, depth: int) -> list[Path]:
    """Sets at a path, in the order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    if (path / PLAN_FILE).exists() or (path / MEASUREMENTS_FILE).exists():
        return [path]
    if not depth:
        return []
    return [
        one
        for child in sorted(path.iterdir())
        if child.is_dir() and not child.name.startswith(".")
        for one in _sets(child, depth - 1)
    ]


def _load(path: Path) -> DataSet:
    if path.is_file():
        return DataSet(path=path, tables=tuple(read_measured(path)))
    if (path / MEASUREMENTS_FILE).exists():
        tables = tuple(read_measured(path / MEASUREMENTS_FILE))
        told = path / FORETOLD_FILE
        foretold = read_foretold(told, tables) if told.exists() else ()
        return DataSet(path=path, tables=tables, foretold=foretold)
    from tuning.staleness import stale_lines
    from tuning.store import load_run  # optuna, which files of tables can do without

    run = load_run(path)
    measured = measured_run(run)
    return DataSet(
        path=path,
        tables=measured.tables,
        left_out=measured.left_out,
        stale=tuple(stale_lines(run)),
    )
