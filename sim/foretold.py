"""Times predicted for measured tables before they were measured, kept beside them.

A model that has changed since can no longer say what it told then, so that is stored: predicted
times in a file of their own, row for row those of the measured ones and never in one table with
them.  pyarrow is imported when a file is read or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.measured import MeasuredTable
from sim.parquet_file import opened, readable, write_parquet

__all__ = ["FORETOLD_FILE", "FORETOLD_SCHEMA", "Foretold", "read_foretold", "write_foretold"]

F64 = NDArray[np.float64]

FORETOLD_SCHEMA = "tile-workbench/foretold/1"
#: How the file is called beside the measured one.
FORETOLD_FILE = "predictions.parquet"
_COLUMNS = ("time_us", "low_us", "high_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What was predicted for the rows of one measured table, in its order; microseconds."""

    time_us: F64
    low_us: F64  #: lower end of the 90 % interval
    high_us: F64  #: upper end

    def __post_init__(self) -> None:
        shapes = {np.shape(getattr(self, name)) for name in _COLUMNS}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"predicted columns have the shapes {sorted(shapes)}: give one number")
        if not (np.isfinite(self.time_us).all() and (self.time_us > 0).all()):
            raise ValueError("a predicted time is not positive and finite: predict it anew")

    def __len__(self) -> int:
        return len(self.time_us)


def write_foretold(path: Path, told: Sequence[Foretold]) -> None:
    """Write what was predicted for the tables of one measured file, in their order.

    Raises:
        ValueError: the file cannot be written.
    """
    import pyarrow as pa

    study = np.repeat(np.arange(len(told), dtype=np.int32), [len(one) for one in told])
    columns = {"study": pa.array(study)}
    for name in _COLUMNS:
        columns[name] = pa.array(np.concatenate([getattr(one, name) for one in told]))
    write_parquet(path, columns, FORETOLD_SCHEMA)


def read_foretold(path: Path, tables: Sequence[MeasuredTable]) -> tuple[Foretold, ...]:
    """Read what :func:`write_foretold` wrote for these tables.

    Raises:
        ValueError: the file is missing, damaged, of another schema, or has other rows than the
            tables.
    """
    with readable(path, "predictions"):
        with opened(path, FORETOLD_SCHEMA) as file:
            if file.schema_arrow.names != ["study", *_COLUMNS]:
                raise ValueError(f"takes the columns study, {', '.join(_COLUMNS)}")
            content = file.read()
        study = content.column("study").to_numpy()
        rows = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
        if not np.array_equal(study, rows):
            raise ValueError(f"its {len(study)} rows are not those of {len(rows)} measured ones")
        ends = np.cumsum([len(one) for one in tables])[:-1]
        parts = [np.split(np.asarray(content.column(n).to_numpy()), ends) for n in _COLUMNS]
        return tuple(
            Foretold(time_us=time, low_us=low, high_us=high)
            for time, low, high in zip(*parts, strict=True)
        )
