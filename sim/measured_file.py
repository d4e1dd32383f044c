"""Measured tables as a Parquet file: a configuration a row, every row complete in itself.

pyarrow is imported when a file is read or written, never by a prediction.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.measured import MeasuredTable
from sim.measured_columns import CONFIG, ENVIRONMENT, FACTS, FIXED, columns_of, table_of
from sim.parquet_file import opened, readable, write_parquet

__all__ = ["MEASUREMENTS_FILE", "MEASUREMENTS_SCHEMA", "read_measured", "write_measured"]

MEASUREMENTS_SCHEMA = "tile-workbench/measurements/1"
#: How the file is called in the folder of a data set.
MEASUREMENTS_FILE = "measurements.parquet"
#: Data sets of ours have some ten thousand rows of some forty columns.
MAX_ROWS, MAX_COLUMNS = 2_000_000, 256


def write_measured(path: Path, tables: Sequence[MeasuredTable]) -> None:
    """Write tables as one file, under a temporary name that is then renamed.

    Args:
        tables: at least one; their kernels are registered families.

    Raises:
        ValueError: no table, a family that no reader could find by its name, or a path that
            cannot be written.
    """
    import pyarrow as pa

    if not tables:
        raise ValueError(f"{path}: no measured table to write: measure something first")
    for one in tables:
        if ":" in one.kernel.name:
            raise ValueError(
                f"{one.kernel.name} is no registered kernel family: register it under the entry "
                "point group tile_workbench.kernels to keep its measurements"
            )
    parts = [columns_of(number, one) for number, one in enumerate(tables)]
    others = {name for part in parts for name in part} - FIXED.keys()
    arrays = {
        name: _arrow(
            pa,
            name,
            [
                cell
                for part, one in zip(parts, tables, strict=True)
                for cell in part.get(name) or [None] * len(one)
            ],
        )
        for name in (*FIXED, *sorted(others))
    }
    write_parquet(path, arrays, MEASUREMENTS_SCHEMA, compression_level=9)


def _arrow(pa: Any, name: str, cells: list[Any]) -> Any:
    kinds = {"int32": pa.int32(), "bool": pa.bool_(), "double": pa.float64()}
    array = pa.array(cells, type=kinds.get(FIXED.get(name, "")))
    return array.dictionary_encode() if pa.types.is_string(array.type) else array


def read_measured(path: Path) -> list[MeasuredTable]:
    """Read what :func:`write_measured` wrote.

    Raises:
        ValueError: no such file, it is damaged, of another schema or larger than data sets are,
            or a row names a problem, a family or a configuration that there is not.
    """
    with readable(path, "a data set"):
        content = _content(path)
        studies = content.column("study").to_numpy()
        ends = np.flatnonzero(np.diff(studies)) + 1
        bounds = [0, *ends.tolist(), len(studies)]
        if len(np.unique(studies)) != len(bounds) - 1:
            raise ValueError("rows of one study do not lie together")
        tables = []
        for begin, end in itertools.pairwise(bounds):
            part = content.slice(begin, end - begin)
            # A column of nothing but empty cells belongs to other tables.
            cells = {
                name: column.to_pylist()
                for name, column in zip(part.column_names, part.columns, strict=True)
                if column.null_count < len(column)
            }
            tables.append(table_of(cells))
        return tables


def _content(path: Path) -> Any:
    """The file as an Arrow table, its size and its columns checked before it is read."""
    with opened(path, MEASUREMENTS_SCHEMA) as file:
        names = file.schema_arrow.names
        if missing := [name for name in FIXED if name not in names]:
            raise ValueError(f"column {missing[0]} is missing")
        unknown = [
            n for n in names if n not in FIXED and not n.startswith((CONFIG, FACTS, ENVIRONMENT))
        ]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"unknown or repeated columns {', '.join(unknown)[:80]}")
        rows, width = file.metadata.num_rows, len(names)
        if not 1 <= rows <= MAX_ROWS or width > MAX_COLUMNS:
            raise ValueError(f"{rows} rows of {width} columns: takes 1..{MAX_ROWS}")
        content = file.read()
    if content.column("study").null_count:
        raise ValueError("column study has empty cells")
    return content
