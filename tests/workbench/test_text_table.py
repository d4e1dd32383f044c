"""Plain tables against rich's, which they must equal character for character."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Sequence

import pytest
from rich.console import Console

import workbench
from workbench.console import PIPE_WIDTH
from workbench.prediction_tables import prediction_tables
from workbench.text_table import Column, TextTable

REPORT = workbench.predict(shapes=["4096x4096x4096", "1x64x64"], out="fp32")


def by_rich(table: TextTable, width: int, *, styled: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=styled,
        color_system="standard" if styled else None,
        legacy_windows=False,
        _environ={},
    )
    console.print(table.rich())
    return out.getvalue()


@pytest.mark.parametrize("styled", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("width", [PIPE_WIDTH, 180, 190, 205, 240])
def test_a_prediction_is_printed_as_rich_prints_it(width: int, styled: bool) -> None:
    for table in prediction_tables(REPORT):
        # rich turns bold off and on again within a cell.
        expected = by_rich(table, width, styled=styled).replace("\x1b[0m\x1b[1m", "")
        assert table.text(width, styled=styled) == expected


def small(cells: Sequence[str], header: str = "words") -> TextTable:
    numbers = Column(header="a\nnumber", cells=["1"] * len(cells), right=True, no_wrap=True)
    return TextTable(title="title", columns=[numbers, Column(header=header, cells=cells)])


LONG = "one three seven eleven thirteen seventeen nineteen"


@pytest.mark.parametrize("width", range(34, 70))
def test_only_the_last_column_is_folded(width: int) -> None:
    table = small([LONG, "", "x", LONG + " twenty-three"])
    plain = table.text(width)
    assert plain == by_rich(table, width, styled=False)
    assert max(map(len, plain.splitlines())) <= width


@pytest.mark.parametrize(
    ("table", "width"),
    [
        (small([LONG]), 30),  # too few characters are left
        (small(["x" * 60]), 60),  # a word that is longer than the line
        (small(["x"], header="h" * 60), 60),
        (TextTable(title="t" * 30, columns=small(["x"]).columns), 60),
    ],
    ids=["narrow", "long word", "long heading", "long title"],
)
def test_what_takes_rich_is_left_to_it(table: TextTable, width: int) -> None:
    assert table.text(width) is None
    assert by_rich(table, width, styled=False)


COMMAND = [sys.executable, "-X", "importtime", "-m", "workbench", "predict", "--shape", "64x64x64"]


def loads_rich(imports: str) -> bool:
    return any(line.split("|")[-1].strip() == "rich.console" for line in imports.splitlines())


def test_neither_a_pipe_nor_a_terminal_takes_rich() -> None:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    run = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
    assert "│ bf16 " in run.stdout
    assert not loads_rich(run.stderr)
    main, terminal = pty.openpty()
    try:
        run = subprocess.run(
            COMMAND,
            env={**environment, "TERM": "xterm", "COLUMNS": "220"},
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        said = os.read(main, 2**16).decode()
    finally:
        os.close(terminal)
        os.close(main)
    assert said.startswith("\x1b[3mh200")
    assert not loads_rich(run.stderr)
