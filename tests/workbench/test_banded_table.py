"""Tables on narrow terminals: nothing that they say is shortened or left out."""

import io
import re

import pytest
from command_line import Call
from rich.console import Console
from rich.table import Table

import workbench
from workbench.banded_table import banded
from workbench.error_tables import error_tables
from workbench.prediction_tables import prediction_tables
from workbench.tables import format_tables, gpu_table

_WORD = re.compile(r"[\w.+%-]+")


def tables() -> dict[str, list[Table]]:
    from sim import gpu_names, load_gpu

    report = workbench.predict(shapes=["16x4096x4096"], recipes=["bf16", "e4m3-row", "w4a16-g128"])
    errors = workbench.error(recipes="jetfire", shape=(32, 32), data="normal")
    return {
        "predict": [table.rich() for table in prediction_tables(report)],
        "error": list(error_tables(errors)),
        "gpus": [gpu_table(map(load_gpu, gpu_names()))],
        "formats": list(format_tables()),
    }


TABLES = tables()


def printed(parts: list[Table], width: int) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, _environ={})
    for part in parts:
        console.print(part)
    return out.getvalue()


def numbers(text: str) -> set[str]:
    return {word for word in _WORD.findall(text) if any(map(str.isdigit, word)) and len(word) < 10}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("verb", TABLES)
def test_every_number_stands_on_a_narrow_terminal(verb: str, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, _environ={})
    for table in TABLES[verb]:
        text = printed(banded(table, console), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert numbers(printed([table], 400)) <= numbers(text)


@pytest.mark.parametrize("width", [40, 80])
def test_every_part_names_its_rows(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, _environ={})
    (table,) = TABLES["predict"]
    parts = banded(table, console)
    assert len(parts) > 1
    assert [part.title for part in parts] == [table.title] + [None] * (len(parts) - 1)
    table.caption = "note"
    captions = [part.caption for part in banded(table, console)]
    assert captions == [None] * (len(parts) - 1) + ["note"]
    for part in parts:
        assert list(part.columns[0].cells) == list(table.columns[0].cells)
    # Each other column stands in one part, in the order of the whole.
    others = [str(column.header) for part in parts for column in part.columns[1:]]
    assert others == [str(column.header) for column in table.columns[1:]]


def test_a_table_that_fits_is_left_alone() -> None:
    console = Console(file=io.StringIO(), width=400, _environ={})
    for found in TABLES.values():
        for table in found:
            assert banded(table, console) == [table]


def test_a_long_name_is_folded_and_not_cut() -> None:
    table = Table(title="title")
    table.add_column("problem", no_wrap=True)
    table.add_column("measured us", justify="right")
    table.add_column("predicted us", justify="right")
    table.add_row("gemm:1024x4096x7168:deepseek-fp8:bf16", "123.4", "120.1")
    console = Console(file=io.StringIO(), width=40, _environ={})
    text = printed(banded(table, console), 40)
    name = "".join(line.split("│")[1].strip() for line in text.splitlines() if "│" in line)
    assert name.count("gemm:1024x4096x7168:deepseek-fp8:bf16") == 2
    assert {"123.4", "120.1"} <= numbers(text)


def test_a_terminal_narrower_than_a_number_folds_it() -> None:
    table = Table("a", "b")
    table.add_row("1", "1234567890123456")
    text = printed(banded(table, Console(file=io.StringIO(), width=14, _environ={})), 14)
    assert "1234567890123456" in re.sub(r"[^\d]", "", text)


def test_predict_keeps_its_numbers_on_a_terminal_of_80_columns(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = ("--recipe", "bf16", "--recipe", "w4a16-g128")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("NO_COLOR", "1")
    shown = {}
    for columns in ("400", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        shown[columns] = re.sub(
            r"\x1b\[[\d;]*m", "", call("predict", "--shape", "16x64x64", *recipes).out
        )
    assert max(map(len, shown["80"].splitlines())) <= 80
    assert numbers(shown["400"]) <= numbers(shown["80"])
