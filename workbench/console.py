"""What every verb of the command line shares: paths taken, tables and JSON printed."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.outfile import check_name
from workbench.text_table import TextTable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CalibrationFile", "Json", "Storage", "path_argument", "print_json", "print_tables"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON with a schema version instead.")]


Storage = Annotated[
    str | None,
    typer.Option(help="postgresql+psycopg://user@host/database, which several hosts share."),
]


CalibrationFile = Annotated[
    str | None,
    typer.Option(help="A file of `workbench calibrate`, or none.  [default: this user's own]"),
]


def path_argument(text: str) -> Path:
    """A path of the command line; ``Path`` would take the empty text for the working directory."""
    if not text:
        raise typer.BadParameter("the path is empty: name a file or a folder")
    try:
        check_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return Path(text)


path_argument.__name__ = "path"  # the help shows a parser's name for what an option takes


def print_json(value: Any) -> None:
    """Indented JSON on standard output; NaN and infinities are refused."""
    print(json.dumps(value, indent=2, allow_nan=False))


#: Columns of output that goes into a pipe or a file, which has no width of its own; numbers are
#: never folded there.
PIPE_WIDTH = 200
#: By these rich is told what a terminal can do, or that one is none.
_RICH_ENVIRONMENT = frozenset(
    {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JUPYTER_COLUMNS"}
)


def print_tables(*tables: Any) -> None:
    """Tables on standard output: rich ones, and plain ones, which rarely need it."""
    console = None
    for table in tables:
        if isinstance(table, TextTable):
            text = _plain(table)
            if text is not None:
                print(text, end="")
                continue
            table = table.rich()
        if console is None:
            console = _console()
        for part in _parts(table, console):
            console.print(part)


def _parts(table: Any, console: "Console") -> list[Any]:
    """A table that is too wide in several; anything else as it is."""
    from rich.table import Table

    from workbench.banded_table import banded

    return list(banded(table, console)) if isinstance(table, Table) else [table]


def _plain(table: TextTable) -> str | None:
    """What rich would print, where that is known without it."""
    out = sys.stdout
    if out is None or "utf" not in str(out.encoding).lower():
        return None
    if not _RICH_ENVIRONMENT.isdisjoint(os.environ):
        return None
    if not out.isatty():
        return table.text(PIPE_WIDTH)
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    return table.text(shutil.get_terminal_size().columns, styled=True)


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)
