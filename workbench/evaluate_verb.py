"""The verb ``evaluate``: how far predictions can be trusted, from stored measurements."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.console import Json, path_argument, print_json, print_tables

__all__ = ["add_evaluate_verb"]

#: Stale studies of a set that are named.
STALE_LISTED = 3


def add_evaluate_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(evaluate)


def evaluate(
    data: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path_argument,
            help="A data set, a run folder, or a folder of them, repeatable.  [default: data/h200]",
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="What is held out of what learns: rows, shape, m-regime, k-regime, format, "
            "block-size, template; repeatable.  [default: all]"
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="A GPU file to predict with.  [default: the data's GPU]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of splits and bootstraps.")] = 0,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated",
            help="Also judge what a calibration would learn, by shape and format: minutes.",
        ),
    ] = False,
    search: Annotated[
        bool, typer.Option(help="Also replay searches, half of the time it takes.")
    ] = True,
    write: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="A page whose marked section and plots are renewed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the cost model and its rivals by stored measurements: no GPU needed."""
    from workbench.evaluation import evaluate as evaluate_data
    from workbench.evaluation import load_judged
    from workbench.evaluation_page import check_page, write_page
    from workbench.evaluation_tables import evaluation_grids
    from workbench.grid import rich_tables
    from workbench.progress import counted_progress

    if write is not None:
        check_page(write)
    with counted_progress("evaluate", quiet=as_json) as progress:
        found = evaluate_data(
            data,
            splits=split,
            gpu=gpu,
            calibrated=calibrated,
            search=search,
            seed=seed,
            progress=progress,
        )
    if write is not None:
        write_page(write, found, load_judged(data, gpu)[1])
    if as_json:
        print_json(found.to_dict())
        return
    for one in found.sets:
        for line in one.stale[:STALE_LISTED]:
            print(f"stale: {one.path}: {line}")
        if len(one.stale) > STALE_LISTED:
            print(f"stale: {one.path}: {len(one.stale) - STALE_LISTED} more studies: --json")
    print_tables(*rich_tables(evaluation_grids(found.to_dict())))
    for one in found.sets:
        for line in one.left_out:
            print(f"left out of {one.path}: {line}")
    if write is not None:
        print(write)
