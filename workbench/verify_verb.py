"""The verb ``verify`` of the command line."""

from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Json, path_argument, print_json, print_tables
from workbench.outfile import check_outfile

__all__ = ["add_verify_verb"]

EXIT_FAILED = 1


def add_verify_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(verify)


def verify(
    package: Annotated[
        Path, typer.Argument(parser=path_argument, help="An emitted folder or its wheel.")
    ],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(parser=path_argument, help="Also write the report as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Install a package in a throw-away environment and check digests, answers and speed."""
    if output is not None:
        from workbench.verification.report import SCHEMA

        check_outfile(output, SCHEMA)  # a verification takes minutes
    report = workbench.verify(package, device=device)
    if output is not None:
        report.write(output)
    if as_json:
        print_json(report.to_dict())
    else:
        from workbench.check_tables import verify_tables

        print_tables(*verify_tables(report))
    if not report.passed:
        raise typer.Exit(EXIT_FAILED)
