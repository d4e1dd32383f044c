"""What ``workbench formats`` prints and ``docs/formats.md`` holds, against the formats."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tiles.formats import (
    ELEMENTS,
    SCALE_ELEMENTS,
    CodebookElement,
    FloatElement,
    IntElement,
    Rounding,
    ScaleRule,
    code_values,
)
from tiles.recipes import RECIPES
from workbench.format_facts import (
    ELEMENT_COLUMNS,
    ELEMENT_SOURCES,
    RECIPE_COLUMNS,
    ROUNDINGS,
    RULES,
    element_cells,
    formats_dict,
    number,
    recipe_cells,
)
from workbench.format_page import format_page
from workbench.tables import format_tables

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def printed(width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    for table in format_tables():
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_is_the_code_s() -> None:
    assert PAGE.read_text(encoding="utf-8") == format_page(), "run make docs"


def test_the_page_s_own_command_writes_it() -> None:
    command = "python -m workbench.format_page"
    assert f"`{command} > docs/formats.md`" in format_page()
    done = subprocess.run(
        [sys.executable, *command.split()[1:]], capture_output=True, text=True, check=True
    )
    assert done.stdout == format_page()


def test_every_line_of_a_table_has_its_columns() -> None:
    tables = [block for block in format_page().split("\n\n") if block.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        counts = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(counts) == 1


def cells(name: str) -> dict[str, str]:
    return dict(zip(ELEMENT_COLUMNS, element_cells(ELEMENTS[name]), strict=True))


def read(text: str) -> float:
    """A number of the table, back."""
    return 2.0 ** int(text[2:]) if text.startswith("2^") else float(text)


SMALL = [name for name, one in ELEMENTS.items() if one.bits <= 16]


@pytest.mark.parametrize("name", SMALL)
def test_the_table_of_elements_is_what_their_codes_say(name: str) -> None:
    one, shown = ELEMENTS[name], cells(name)
    values = code_values(one)
    finite = np.abs(values[np.isfinite(values)])
    used = finite <= one.max  # the most negative integer has a code, but no use
    assert read(shown["max"]) == pytest.approx(finite[used].max(), rel=1e-6)
    assert read(shown["min subnormal"]) == pytest.approx(finite[finite > 0].min(), rel=1e-6)
    nans = np.flatnonzero(np.isnan(values))
    assert shown["NaN codes"] == (str(len(nans)) if len(nans) else "-")
    if len(nans):
        assert int(shown["NaN"], 16) in nans
    infinities = np.flatnonzero(np.isposinf(values))
    assert shown["Inf"] == (f"0x{infinities[0]:0{one.bits // 4}x}" if len(infinities) else "-")
    if not isinstance(one, CodebookElement):
        after = np.unique(values[values > 1])
        beyond = after[0] - 1 if 1 in values else 1
        assert read(shown["eps"]) == beyond
    if isinstance(one, FloatElement):
        bits = (shown["sign"] == "yes") + int(shown["exp."]) + int(shown["mant."])
        assert bits == one.bits


def test_hand_values_of_the_standards() -> None:
    assert [cells("e4m3fn")[c] for c in ("max", "min normal", "min subnormal")] == [
        "448",
        "2^-6",
        "2^-9",
    ]
    assert [cells("e5m2")[c] for c in ("max", "NaN", "Inf", "NaN codes")] == [
        "57344",
        "0x7f",
        "0x7c",
        "6",
    ]
    assert [cells("fp32")[c] for c in ("max", "min subnormal", "NaN codes")] == [
        "3.402823e+38",
        "2^-149",
        str(2 * (2**23 - 1)),
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(448, "448"), (0.5, "2^-1"), (1, "1"), (4096, "4096"), (2.0**127, "2^127"), (0.75, "0.75")],
)
def test_powers_of_two_are_written_where_digits_would_be_many(value: float, text: str) -> None:
    assert number(value) == text


def test_nothing_is_left_out() -> None:
    assert set(ELEMENT_SOURCES) == set(ELEMENTS)
    assert set(RULES) == set(ScaleRule)
    assert set(ROUNDINGS) == set(Rounding)
    for one in RECIPES.values():
        assert len(recipe_cells(one)) == len(RECIPE_COLUMNS)
    page = format_page()
    for name in (*ELEMENTS, *RECIPES, *SCALE_ELEMENTS):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("width", [100, 140, 200])
def test_names_are_whole_at_any_usual_width(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    first = {line.split()[0] for line in text.splitlines() if line.split()}
    assert {*ELEMENTS, *RECIPES, *SCALE_ELEMENTS} <= first
    assert "e<E>m<M>[b<bias>][fn|fnuz]" in text
    if width >= 140:
        assert "e2m1fn.b16x16+e4m3fn+two-level" in text


def test_json_says_what_the_formats_are() -> None:
    told = json.loads(json.dumps(formats_dict(), allow_nan=False))
    assert told["schema"] == "tile-workbench/formats/2"
    assert set(told["elements"]) == set(ELEMENTS)
    for name, entry in told["elements"].items():
        one = ELEMENTS[name]
        assert (entry["bits"], entry["max"], entry["min"]) == (one.bits, one.max, one.min_subnormal)
        assert entry["kind"] in ("float", "integer", "posit", "codebook")
        if isinstance(one, FloatElement | IntElement):
            assert entry["signed"] == one.signed
    jetfire, casts = (told["recipes"][name] for name in ("jetfire", "fp8-ptq-e5m2"))
    assert jetfire["gradient"] == "int8.b32x32+sr"
    assert (jetfire["output"], jetfire["residual"]) == ("int8.b32x32", "fp16")
    assert jetfire["weight_bits"] == 8.03125
    assert (casts["gradient"], casts["update"], casts["weight_bits"]) == (None, None, 8.0)
    assert told["recipes"]["llm-int8"]["outliers"] == "columns with |x| > 6 in fp16"
    assert told["recipes"]["nvfp4"]["activation_bits"] == pytest.approx(4.5, abs=1e-5)
