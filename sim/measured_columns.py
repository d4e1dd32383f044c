"""A measured table as cells under column names, and back: what a data set's file has as columns.

Pure Python and NumPy; the file format is :mod:`sim.measured_file`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from sim.measured import MeasuredTable
from tiles.intake import shown
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import parse_problem

__all__ = ["CONFIG", "CONSTANT", "ENVIRONMENT", "FACTS", "FIXED", "columns_of", "table_of"]

#: Columns that every file has, and what they hold; ``study`` numbers the tables from 0 on.
FIXED = {
    "study": "int32",
    "problem": "text",
    "kernel": "text",
    "gpu": "text",
    "cold": "bool",
    "whole_space": "bool",
    "in_view": "bool",
    "source": "text",
    "time_us": "double",
    "iqr_us": "double",
    "clock_mhz": "double",
    "power_w": "double",
}
#: Those that are the same for all rows of a table.
CONSTANT = ("problem", "kernel", "gpu", "cold", "whole_space", "in_view", "source")
#: Beginnings of the other columns' names: fields of configurations, compile facts, driver and
#: versions.  A cell is empty where its row has no such thing.
CONFIG, FACTS, ENVIRONMENT = "config.", "facts.", "environment."


def columns_of(number: int, one: MeasuredTable) -> dict[str, list[Any]]:
    """A table's cells by column name, ``len(one)`` each; None where a row has no such thing."""
    rows = len(one)
    unknown = np.full(rows, np.nan)
    cells: dict[str, list[Any]] = {
        "study": [number] * rows,
        "problem": [str(one.problem)] * rows,
        "kernel": [one.kernel.name] * rows,
        "gpu": [one.gpu] * rows,
        "cold": [one.cold] * rows,
        "whole_space": [one.whole_space] * rows,
        "in_view": [one.in_view] * rows,
        "source": [one.source] * rows,
        "time_us": one.time_us.tolist(),
        "iqr_us": one.iqr_us.tolist(),
        "clock_mhz": (unknown if one.clock_mhz is None else one.clock_mhz).tolist(),
        "power_w": (unknown if one.power_w is None else one.power_w).tolist(),
    }
    for name, column in one.table.columns.items():
        cells[CONFIG + name] = column.tolist()
    for name in CompileFacts.__slots__ if one.facts else ():
        cells[FACTS + name] = [
            getattr(one.facts[row], name) if row in one.facts else None for row in range(rows)
        ]
    for name, value in one.environment.items():
        cells[ENVIRONMENT + name] = [value] * rows
    return cells


def table_of(cells: Mapping[str, Sequence[Any]]) -> MeasuredTable:
    """Inverse of :func:`columns_of`; columns of other tables' things are empty here.

    Raises:
        ValueError: rows that contradict one another, or that name a problem, a family or a
            configuration that there is not.
        TypeError: compile facts of a wrong type.
    """
    same = {name: _same(name, cells[name]) for name in CONSTANT}
    family = kernel(same["kernel"])
    names = [f.name for f in fields(family.config_type)]
    mine = {
        name[len(CONFIG) :]: column
        for name, column in cells.items()
        if name.startswith(CONFIG) and any(value is not None for value in column)
    }
    # Rows of before a field with a default say nothing about it.
    rows = len(cells["study"])
    for name, value in family.config_type.defaults().items():
        mine.setdefault(name, [value] * rows)
    if set(mine) != set(names):
        raise ValueError(
            f"{family.name}: its configurations have the fields {', '.join(names)}, the file has "
            f"{', '.join(sorted(mine)) or 'none'}"
        )
    # One by one through the family's own type: whole numbers where those belong, truth values
    # where those do, and nothing missing.
    configs = [
        family.config_type.from_dict({name: mine[name][row] for name in names})
        for row in range(rows)
    ]
    clock, power = (_numbers(name, cells[name]) for name in ("clock_mhz", "power_w"))
    return MeasuredTable(
        problem=parse_problem(same["problem"]),
        kernel=family,
        gpu=same["gpu"],
        table=ConfigTable.of(configs),
        time_us=_numbers("time_us", cells["time_us"]),
        iqr_us=_numbers("iqr_us", cells["iqr_us"]),
        whole_space=same["whole_space"],
        facts=_facts(cells),
        cold=same["cold"],
        in_view=same["in_view"],
        source=same["source"],
        environment={
            name[len(ENVIRONMENT) :]: _same(name, column)
            for name, column in cells.items()
            if name.startswith(ENVIRONMENT) and column[0] is not None
        },
        clock_mhz=None if np.isnan(clock).all() else clock,
        power_w=None if np.isnan(power).all() else power,
    )


def _same(name: str, column: Sequence[Any]) -> Any:
    """The one value of a column that is constant in a table."""
    kind = bool if FIXED.get(name) == "bool" else str
    values = set(column)
    if len(values) != 1 or type(column[0]) is not kind:
        raise ValueError(f"column {name} of one study holds {shown(sorted(map(str, values)))}")
    return column[0]


def _numbers(name: str, column: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    if any(type(value) is not float for value in column):
        raise ValueError(f"column {name} holds something that is no number")
    return np.array(column, dtype=np.float64)


def _facts(cells: Mapping[str, Sequence[Any]]) -> dict[int, CompileFacts]:
    names = CompileFacts.__slots__
    if not all(FACTS + name in cells for name in names):
        return {}
    rows = zip(*(cells[FACTS + name] for name in names), strict=True)
    return {
        row: CompileFacts.from_dict(dict(zip(names, values, strict=True)))
        for row, values in enumerate(rows)
        if values[0] is not None
    }
