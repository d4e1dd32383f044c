"""Rows of tables of configurations, compared without making a configuration of each."""

import numpy as np

from tiles.kernels import ConfigTable


def distinct_rows(table: ConfigTable) -> int:
    """How many rows of the table differ from all before them."""
    columns = [np.asarray(column, dtype=np.int64) for column in table.columns.values()]
    return int(np.unique(np.stack(columns), axis=1).shape[1])
