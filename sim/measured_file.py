"""Measured tables as a Parquet file: a configuration a row, every row complete in itself.

pyarrow is imported when a file is read or written, never by a prediction.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sim.measured import MeasuredTable
from sim.measured_columns import CONFIG, ENVIRONMENT, FACTS, FIXED, columns_of, table_of
from tiles.regular_file import check_regular

__all__ = ["MEASUREMENTS_FILE", "MEASUREMENTS_SCHEMA", "read_measured", "write_measured"]

MEASUREMENTS_SCHEMA = "tile-workbench/measurements/1"
#: How the file is called in the folder of a data set.
MEASUREMENTS_FILE = "measurements.parquet"
#: Key of the file's own metadata that holds the schema.
_KEY = b"schema"
#: Data sets of ours have some ten thousand rows of some forty columns.
MAX_FILE_BYTES, MAX_ROWS, MAX_COLUMNS = 2**28, 2_000_000, 256


def write_measured(path: Path, tables: Sequence[MeasuredTable]) -> None:
    """Write tables as one file, under a temporary name that is then renamed.

    Args:
        tables: at least one; their kernels are registered families.

    Raises:
        ValueError: no table, a family that no reader could find by its name, or a path that
            cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

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
    content = pa.table(arrays).replace_schema_metadata({_KEY: MEASUREMENTS_SCHEMA.encode()})
    temporary = path.with_name(path.name + ".tmp")
    check_regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(
            content, temporary, compression="zstd", compression_level=9, write_page_checksum=True
        )
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"{path}: cannot be written: {error.strerror or error}: free space or choose another "
            "output"
        ) from error


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
    import pyarrow as pa

    with _readable(path, pa):
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
    from pyarrow import parquet

    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        schema = (file.schema_arrow.metadata or {}).get(_KEY, b"none").decode("utf-8", "replace")
        if schema != MEASUREMENTS_SCHEMA:
            raise ValueError(
                f"its schema is {schema[:80]!r}, this version reads {MEASUREMENTS_SCHEMA!r}"
            )
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


@contextlib.contextmanager
def _readable(path: Path, pa: Any) -> Iterator[None]:
    """One line about whatever is wrong with a file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file: check the path") from error
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        said = " ".join(str(error).split())[:240] or type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as a data set: {said}: bring back a copy or export it anew"
        ) from error
