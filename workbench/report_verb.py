"""The verb ``report`` of the command line."""

from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Storage, path_argument

__all__ = ["add_report_verb"]


def add_report_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(report)


def report(
    study: Annotated[
        Path,
        typer.Argument(
            parser=path_argument, help="A run folder, e.g. runs/llama-3-8b, or one of many."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=path_argument, help="HTML file; the folder of a site."
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML page about a sweep, or a site about a folder of them."""
    print(workbench.report(study, output, storage=storage))
