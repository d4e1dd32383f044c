"""The verb ``calibrate`` of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import workbench
from workbench.console import Json, path_argument, print_json, print_tables

if TYPE_CHECKING:
    from rich.table import Table

    from tuning.calibration.run import Calibrated

__all__ = ["add_calibrate_verb"]


def add_calibrate_verb(app: typer.Typer) -> None:
    """Register the verb of this file."""
    app.command()(calibrate)


def calibrate(
    gpu: Annotated[
        str | None, typer.Option(help="A name, or a GPU file.  [default: the one that is here]")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument,
            help="Keeps what was measured.  [default: runs/calibrate-GPU]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=path_argument,
            help="Calibration file.  [default: this user's own]",
        ),
    ] = None,
    timings: Annotated[int, typer.Option(help="Of kernels, beside the microbenchmarks.")] = 96,
    time_limit: Annotated[str, typer.Option(help="Of everything, e.g. 8m.")] = "8m",
    seed: Annotated[int, typer.Option(help="Of the choice of kernels.")] = 0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="On a simulated machine: a rehearsal.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Teach the cost model the GPU at hand; resumes where it stopped."""
    from workbench.calibrations import calibration_dict
    from workbench.progress import counted_progress

    with counted_progress("calibrate", quiet=as_json) as progress:
        done, path = workbench.calibrate(
            gpu=gpu,
            folder=folder,
            output=output,
            timings=timings,
            time_limit=time_limit,
            seed=seed,
            simulate=simulate,
            progress=lambda step: progress(step.done, step.total),
        )
    if as_json:
        print_json(calibration_dict(done, path))
        return
    print_tables(_figures(done), _families(done))
    for one in done.outcomes:
        if one.reason:
            print(f"microbenchmark {one.name} failed, the GPU file's figures stay: {one.reason}")
    failed = ", ".join(f"{count} {status}" for status, count in done.failed.items())
    print(
        f"{done.measured} of {done.planned} timings in {done.seconds:.0f} s"
        + (f"; failed: {failed}" if failed else "")
    )
    for line in done.left_out:
        print(f"left out, no time: {line}")
    print(path)


def _figures(done: "Calibrated") -> "Table":
    from rich.table import Table

    calibration = done.learned.calibration
    measured = {figure.name for one in done.outcomes for figure in one.figures}
    table = Table(title=calibration.title, title_justify="left")
    for name in ("figure", "GPU file", "calibrated", "microbenchmark"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    rates = calibration.base.tensor_flop_per_clk
    for name, value in sorted(calibration.figures.items()):
        owner, _, element = name.partition(".")
        before = rates[element] if element else getattr(calibration.base, owner)
        table.add_row(name, f"{before:.4g}", f"{value:.4g}", "yes" if name in measured else "-")
    return table


def _families(done: "Calibrated") -> "Table":
    from rich.table import Table

    table = Table(
        title="Mean error in log time: before, and on shapes left out of the fit",
        title_justify="left",
    )
    table.add_column("family")
    for name in ("timings", "shapes", "before", "fitted", "with residual", "residual"):
        table.add_column(name, justify="right")
    for name, one in done.learned.calibration.families.items():
        table.add_row(
            name,
            str(one.rows),
            str(one.shapes),
            f"{one.prior_error:.3f}",
            f"{one.physics_error:.3f}",
            "-" if one.residual_error is None else f"{one.residual_error:.3f}",
            "-" if one.residual is None else "used",
        )
    return table
