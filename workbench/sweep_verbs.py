"""The verbs that search: ``sweep``, and ``repair`` of what one was cut off in."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.calibrations import calibration_lines
from workbench.console import (
    CalibrationFile,
    Json,
    Storage,
    path_argument,
    print_json,
    print_tables,
)
from workbench.shared import stale_lines

__all__ = ["add_sweep_verbs"]


def add_sweep_verbs(app: typer.Typer) -> None:
    """Register the verbs of this file."""
    app.command()(sweep)
    app.command()(repair)


def sweep(
    file: Annotated[
        Path,
        typer.Argument(parser=path_argument, help="A sweep file, e.g. examples/llama-3-8b.yaml."),
    ],
    on: Annotated[str | None, typer.Option(help="gpu, sim or auto; overrides the file.")] = None,
    output: Annotated[
        Path | None, typer.Option(parser=path_argument, help="Run folder; overrides the file.")
    ] = None,
    max_measurements: Annotated[
        int | None, typer.Option(help="Measurements a study; overrides the file.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Of the whole sweep, e.g. 30m; overrides the file.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What winners have the least of: time or energy; overrides the file."),
    ] = None,
    storage: Storage = None,
    study: Annotated[
        str | None,
        typer.Option(help="Name in the storage.  [default: the run folder's name]"),
    ] = None,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Launch also what is known to fail.")
    ] = False,
    revalidate: Annotated[
        bool, typer.Option("--revalidate", help="Only measure stored winners and runners-up again.")
    ] = False,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Go on although driver or versions have changed.")
    ] = False,
    calibration: CalibrationFile = None,
    as_json: Json = False,
) -> None:
    """Search kernel configurations for every problem of a sweep file; resumes where it stopped."""
    from workbench.progress import sweep_progress

    for refused in workbench.unserved(file, on=on):
        print(f"not swept: {refused}", file=sys.stderr)
    with sweep_progress(quiet=as_json) as progress:
        run = workbench.sweep(
            file,
            on=on,
            output=output,
            max_measurements=max_measurements,
            time_limit=time_limit,
            objective=objective,
            storage=storage,
            study=study,
            retry_failures=retry_failures,
            revalidate=revalidate,
            allow_stale=allow_stale,
            calibration=calibration,
            progress=progress,
        )
    if as_json:
        print_json(workbench.winners(run))
        return
    from workbench.tables import winner_table

    print_tables(winner_table(run))
    for line in calibration_lines(run):
        print(line)
    for line in stale_lines(run):
        print(f"stale: {line}")


def repair(
    study: Annotated[
        Path, typer.Argument(parser=path_argument, help="A run folder whose journal is damaged.")
    ],
) -> None:
    """Set a journal's torn end aside, so that a sweep cut off in mid-write goes on."""
    aside = workbench.repair(study)
    print(f"{aside} bytes set aside in {study}/journal.log.torn" if aside else "nothing to repair")
