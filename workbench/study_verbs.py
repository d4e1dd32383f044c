"""Verbs on studies that are finished: replay, export, import."""

import json
from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Json, Storage, path_argument, print_json, print_tables
from workbench.outfile import check_outfile, write_outfile

__all__ = ["add_study_verbs"]

Run = Annotated[Path, typer.Argument(metavar="STUDY", parser=path_argument, help="A run folder.")]


def add_study_verbs(app: typer.Typer) -> None:
    """Register the verbs of this file."""
    app.command()(replay)
    app.command()(export)
    app.command("import")(import_)


def replay(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            parser=path_argument,
            help="A run folder, a T4 file or a folder of them.",
        ),
    ],
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable.  [default: hybrid, model, tpe, random]"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Searches a strategy.")] = 50,
    max_measurements: Annotated[int, typer.Option(help="Of one search.")] = 32,
    storage: Storage = None,
    problem: Annotated[
        list[str] | None, typer.Option(help="Only studies of these problems, repeatable.")
    ] = None,
    sample: Annotated[
        bool, typer.Option(help="Take what was measured for the whole space.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=path_argument, help="Also write JSON to a file."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let strategies search a space that was measured as a whole: no GPU needed."""
    if output is not None:
        from tuning.replay import REPLAY_SCHEMA

        check_outfile(output, REPLAY_SCHEMA)  # a replay takes a minute
    from workbench.progress import counted_progress

    with counted_progress("replay", quiet=as_json) as progress:
        found = workbench.replay(
            study,
            strategies=strategy,
            seeds=seeds,
            max_measurements=max_measurements,
            problems=problem or (),
            storage=storage,
            sample=sample,
            progress=progress,
        )
    if output is not None:
        write_outfile(output, json.dumps(found.to_dict(), allow_nan=False) + "\n")
    if as_json:
        print_json(found.to_dict())
        return
    from workbench.replay_tables import replay_tables

    for line in found.stale:
        print(f"stale: {line}")
    print_tables(*replay_tables(found))


def export(
    study: Run,
    file: Annotated[
        Path,
        typer.Argument(parser=path_argument, help="FILE.json for T4; any other name is a folder."),
    ],
    to: Annotated[str, typer.Option(help="t4, a file a study; or parquet, a data set.")] = "t4",
    problem: Annotated[
        str | None, typer.Option(help="Which study of a run that holds several.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="The same, by kernel family.")] = None,
    storage: Storage = None,
) -> None:
    """Write what studies measured: T4 files for other tuners, or a data set for `evaluate`."""
    for path in workbench.export(
        study, file, to=to, problem=problem, kernel=kernel, storage=storage
    ):
        print(path)


def import_(
    file: Annotated[
        list[Path], typer.Argument(parser=path_argument, help="T4 files, a study each, or folders.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=path_argument, help="Run folder to create."),
    ],
    problem: Annotated[
        str | None, typer.Option(help="What was computed, where the file does not say.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="By which kernel family; likewise.")] = None,
    gpu: Annotated[str | None, typer.Option(help="On which GPU; likewise.")] = None,
) -> None:
    """Make a run folder of TuningSchema T4 files, as they were exported here or by other tuners."""
    imported = workbench.import_t4(file, output, problem=problem, kernel=kernel, gpu=gpu)
    print(f"{imported.trials} configurations in {output}")
    for line in imported.left_out:
        print(f"left out: {line}")
