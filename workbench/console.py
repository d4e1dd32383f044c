"""What every verb of the command line shares: paths taken, tables and JSON printed."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.outfile import check_name

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


def print_json(value: Any) -> None:
    """Indented JSON on standard output; NaN and infinities are refused."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_tables(*tables: Any) -> None:
    """Rich tables on standard output."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # A pipe has no width of its own; never fold numbers there.
    for table in tables:
        console.print(table)
