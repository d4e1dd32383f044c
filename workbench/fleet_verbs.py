"""Verbs on sweeps that several processes share: worker, dashboard."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Json, Storage, path_argument, print_json, print_tables

__all__ = ["add_fleet_verbs"]


def add_fleet_verbs(app: typer.Typer) -> None:
    """Register the verbs of this file."""
    app.command()(worker)
    app.command()(dashboard)


def worker(
    study: Annotated[
        Path,
        typer.Option(
            parser=path_argument, help="A run folder or, with --storage, the name of a sweep."
        ),
    ],
    storage: Storage = None,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Launch also what is known to fail.")
    ] = False,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Work also where driver or versions differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Help with a sweep that another process began, until nothing is left that can run here."""
    from workbench.progress import sweep_progress

    def note(line: str) -> None:
        print(line, file=sys.stderr)

    with sweep_progress(quiet=as_json) as progress:
        runs = workbench.work(
            study,
            storage=storage,
            retry_failures=retry_failures,
            allow_stale=allow_stale,
            progress=progress,
            note=note,
        )
    if as_json:
        print_json({"schema": "tile-workbench/worker/1", "runs": [*map(workbench.winners, runs)]})
        return
    from workbench.tables import winner_table

    print_tables(*map(winner_table, runs))


def dashboard(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            parser=path_argument,
            help="A run folder or, with --storage, the name of a sweep.",
        ),
    ],
    storage: Storage = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
) -> None:
    """Open optuna-dashboard on a sweep; Ctrl-C ends it."""
    workbench.dashboard(
        study, storage=storage, host=host, port=port, ready=lambda url: print(url, flush=True)
    )
