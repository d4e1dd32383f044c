"""The verb ``promote`` of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import workbench
from workbench.console import Json, path_argument, print_json, print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from tuning.promotion.contest import Side
    from workbench.promotions import Promotion

__all__ = ["add_promote_verb"]


def add_promote_verb(app: typer.Typer) -> None:
    """Register the verb of this file."""
    app.command()(promote)


def promote(
    new: Annotated[
        Path, typer.Argument(parser=path_argument, help="A run folder, or an emitted package.")
    ],
    over: Annotated[
        Path, typer.Option(parser=path_argument, help="What it would replace: likewise.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=path_argument, help="Run folder of the winners, for `emit`."
        ),
    ],
    min_gain: Annotated[str, typer.Option(help="What a new entry must be faster by.")] = "3%",
    on: Annotated[str, typer.Option(help="gpu, or sim: by the cost model alone.")] = "gpu",
    common: Annotated[
        bool, typer.Option("--common", help="Also where one of both lacks problems.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Keep old entries unless new ones are right and faster, both measured again in turns."""
    from workbench.progress import sweep_progress

    with sweep_progress(quiet=as_json) as progress:
        found = workbench.promote(
            new, over, output, min_gain=min_gain, on=on, common=common, progress=progress
        )
    if as_json:
        print_json(found.to_dict())
        return
    print_tables(_table(found))
    print(found.run.folder)


def _table(found: "Promotion") -> "Table":
    from rich.table import Table

    times = "simulated, never measured" if found.simulated else "measured in turns"
    table = Table(
        title=f"{found.new} over {found.over}: us, {times}; least gain {100 * found.min_gain:g} %",
        title_justify="left",
    )
    table.add_column("problem", overflow="fold")
    table.add_column("entry")
    for name in ("old", "IQR", "new", "IQR"):
        table.add_column(name, justify="right")
    table.add_column("why", overflow="fold")
    for one in found.verdicts:
        table.add_row(
            str(one.problem),
            one.status.value,
            *_times(one.old),
            *_times(one.new),
            one.reason,
        )
    return table


def _times(side: "Side | None") -> tuple[str, str]:
    if side is None or side.time_us is None:
        return "-", "-"
    return f"{side.time_us:.2f}", "-" if side.iqr_us is None else f"{side.iqr_us:.2f}"
