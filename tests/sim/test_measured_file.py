"""Measured tables on disk: they come back as they were, and a damaged file says so in a line."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parent / "evaluation"))

from measured_cases import FACTS, gemm_table, hopper_table, measured

from sim.measured import MeasuredTable
from sim.measured_file import read_measured, write_measured

SCHEMA = {
    "study": "int32",
    "problem": "dictionary<values=string, indices=int32, ordered=0>",
    "kernel": "dictionary<values=string, indices=int32, ordered=0>",
    "gpu": "dictionary<values=string, indices=int32, ordered=0>",
    "cold": "bool",
    "whole_space": "bool",
    "in_view": "bool",
    "source": "dictionary<values=string, indices=int32, ordered=0>",
    "time_us": "double",
    "iqr_us": "double",
    "clock_mhz": "double",
    "power_w": "double",
    "config.block_k": "int64",
    "config.block_m": "int64",
    "config.block_n": "int64",
    "config.group_m": "int64",
    "config.num_stages": "int64",
    "config.num_warps": "int64",
    "config.persistent": "bool",
    "config.tma": "bool",
    "config.split_k": "int64",
    "config.stream_k": "bool",
    "config.subtiles": "int64",
    "config.overlap": "bool",
    "config.specialize": "bool",
    "environment.driver": "dictionary<values=string, indices=int32, ordered=0>",
    "facts.compiler": "dictionary<values=string, indices=int32, ordered=0>",
    "facts.mma": "dictionary<values=string, indices=int32, ordered=0>",
    "facts.pipeline_depth": "int64",
    "facts.registers": "int64",
    "facts.smem_bytes": "int64",
    "facts.stack_bytes": "int64",
    "facts.target": "dictionary<values=string, indices=int32, ordered=0>",
    "facts.threads": "int64",
}


def full() -> MeasuredTable:
    return measured(
        "gemm:64x512x512:int8-b128:bf16",
        facts={1: FACTS, 3: replace(FACTS, registers=255)},
        source="ab" * 32,
        environment={"driver": "580.1"},
        clock_mhz=np.array([1980.0, np.nan, 1900.0, 1850.5]),
        power_w=np.arange(4.0),
        whole_space=False,
    )


def several() -> list[MeasuredTable]:
    hopper = measured(
        "gemm:64x512x512:e4m3-row:bf16", table=hopper_table(stages=[3, 4]), family="hopper_gemm"
    )
    warm = replace(full(), cold=False, in_view=True, iqr_us=np.full(4, np.nan))
    return [full(), hopper, warm]


def same(one: MeasuredTable, other: MeasuredTable) -> bool:
    columns = ("time_us", "iqr_us", "clock_mhz", "power_w")
    plain = ("gpu", "whole_space", "facts", "cold", "in_view", "source", "environment", "problem")
    return (
        all(
            np.array_equal(*(getattr(t, c) for t in (one, other)), equal_nan=True)
            if getattr(one, c) is not None
            else getattr(other, c) is None
            for c in columns
        )
        and all(getattr(one, name) == getattr(other, name) for name in plain)
        and list(one.table) == list(other.table)
        and one.kernel.name == other.kernel.name
        and {n: c.dtype for n, c in one.table.columns.items()}
        == {n: c.dtype for n, c in other.table.columns.items()}
    )


def test_tables_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "set.parquet"
    write_measured(path, several())
    back = read_measured(path)
    assert len(back) == 3
    assert all(same(*pair) for pair in zip(several(), back, strict=True))
    assert [p.name for p in path.parent.iterdir()] == ["set.parquet"]


def test_the_schema_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    write_measured(path, [full()])
    schema = parquet.read_schema(path)
    assert {name: str(schema.field(name).type) for name in schema.names} == SCHEMA
    assert schema.metadata[b"schema"] == b"tile-workbench/measurements/1"


def test_rows_of_before_a_field_with_a_default_have_that(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    table = full()
    write_measured(path, [table])
    added = [f"config.{name}" for name in table.kernel.config_type.defaults()]
    assert added
    content = parquet.read_table(path)
    parquet.write_table(content.drop_columns(added), path)
    (read,) = read_measured(path)
    for name in read.table.columns:
        assert read.table[name].tolist() == table.table[name].tolist()


def test_a_table_of_nothing_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no measured table to write"):
        write_measured(tmp_path / "set.parquet", [])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        write_measured(blocked / "set.parquet", [full()])


def edited(path: Path, edit: Any, *, schema: str = "tile-workbench/measurements/1") -> Path:
    """The file with its Arrow table put through ``edit``."""
    write_measured(path, several()[:2])
    content = edit(parquet.read_table(path)).replace_schema_metadata({b"schema": schema.encode()})
    parquet.write_table(content, path)
    return path


def put(name: str, value: Any, row: int = 0) -> Any:
    """Replace one cell."""

    def edit(content: pa.Table) -> pa.Table:
        cells = content.column(name).to_pylist()
        cells[row] = value
        return content.set_column(content.schema.get_field_index(name), name, pa.array(cells))

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (put("time_us", float("nan")), "a measured time is not positive and finite"),
        (put("time_us", -1.0), "a measured time is not positive and finite"),
        (put("time_us", None), "column time_us holds something that is no number"),
        (put("problem", "gemm:0x1x1:bf16:bf16"), "column problem of one study holds"),
        (put("study", 1), "rows of one study do not lie together"),
        (put("study", None), "column study has empty cells"),
        (put("config.block_m", None), "takes int, got None"),
        (put("config.stages", 4), "has the fields|have the fields"),
        (put("facts.registers", None, 1), "registers is not of type int"),
        (put("gpu", "a100"), "column gpu of one study holds"),
        (lambda c: c.drop_columns(["iqr_us"]), "column iqr_us is missing"),
        (lambda c: c.append_column("mine", c.column("study")), "unknown or repeated columns mine"),
        (lambda c: c.slice(0, 0), "0 rows of"),
        (lambda c: put("kernel", "nonsense")(c.slice(0, 1)), "unknown kernel 'nonsense'"),
        (lambda c: put("problem", "gemm:0x1x1:bf16:bf16")(c.slice(0, 1)), "M = 0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path, edit: Any, says: str) -> None:
    path = edited(tmp_path / "set.parquet", edit)
    with pytest.raises(ValueError, match=says) as caught:
        read_measured(path)
    assert str(caught.value).startswith(f"{path}: cannot be read as a data set: ")
    assert "\n" not in str(caught.value)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path / "set.parquet", lambda c: c, schema="tile-workbench/measurements/9")
    with pytest.raises(ValueError, match="its schema is 'tile-workbench/measurements/9', this"):
        read_measured(path)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file_is_told_in_one_line(tmp_path: Path, left: int) -> None:
    path = tmp_path / "set.parquet"
    write_measured(path, several())
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"cannot be read as a data set: [^\n]*$"):
        read_measured(path)


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    write_measured(path, several())
    whole = path.read_bytes()
    before = read_measured(path)
    said = []
    for place in np.random.default_rng(0).integers(len(whole), size=200).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = read_measured(path)
        except ValueError as error:
            said.append(str(error))
            continue
        assert all(same(*pair) for pair in zip(before, found, strict=True)), place
    assert len(said) > 100
    assert not any("\n" in text for text in said)


def test_no_file_a_folder_and_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file: check the path"):
        read_measured(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="not a regular file"):
        read_measured(tmp_path)
    other = tmp_path / "set.parquet"
    other.write_text(json.dumps({"schema": "x"}))
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        read_measured(other)


def test_a_part_keeps_its_rows_together() -> None:
    table = full()
    part = table.take(np.array([3, 1]))
    assert part.time_us.tolist() == [103.0, 101.0]
    assert list(part.table) == [table.table.config(3), table.table.config(1)]
    assert {row: one.registers for row, one in part.facts.items()} == {0: 255, 1: 96}
    assert part.power_w is not None
    assert part.power_w.tolist() == [3.0, 1.0]
    whole = replace(table, whole_space=True)
    assert whole.take(np.ones(4, bool)).whole_space
    assert not whole.take(np.arange(3)).whole_space


def test_a_blinded_table_holds_no_measurement() -> None:
    blind = full().blinded()
    assert (set(blind.time_us), blind.clock_mhz, blind.power_w) == ({1.0}, None, None)
    assert np.isnan(blind.iqr_us).all()
    assert (blind.facts, list(blind.table)) == (full().facts, list(full().table))


@pytest.mark.parametrize("name", ["time_us", "iqr_us", "clock_mhz", "power_w"])
def test_columns_have_a_number_a_row(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has shape"):
        measured(**{"times": [1.0] * 3} if name == "time_us" else {name: np.ones(3)})


@pytest.mark.parametrize("time", [0.0, -1.0, np.nan, np.inf])
def test_times_are_positive_and_finite(time: float) -> None:
    with pytest.raises(ValueError, match="a measured time is not positive and finite"):
        measured(times=[1.0, 2.0, time, 3.0], table=gemm_table(group_m=[1, 2, 4, 8]))


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: is not a regular file: choose another output"):
        write_measured(tmp_path / "pipe", [full()])
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()
