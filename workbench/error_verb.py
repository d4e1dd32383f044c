"""The verb ``error`` of the command line."""

from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Json, path_argument, print_json, print_tables

__all__ = ["add_error_verb"]


def add_error_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(error)


def error(
    recipe: Annotated[
        list[str] | None, typer.Option(help="Recipe name or all, repeatable.")
    ] = None,
    fmt: Annotated[
        list[str] | None, typer.Option("--format", help="Tensor format, repeatable.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="RxK of the activations.  [default: 1024x1024]")
    ] = None,
    weight_shape: Annotated[
        str | None, typer.Option(help="NxK of the weights.  [default: that of the activations]")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="normal, laplace, student-t, outlier or all, repeatable.  "
            "[default: normal, outlier]"
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            parser=path_argument, help="Rank formats on a safetensors file or folder instead."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(parser=path_argument, help="With --weights: also write a page.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data and of stochastic rounding.")] = 0,
    accumulation: Annotated[
        str | None,
        typer.Option(
            help="exact, hopper-fp8 or hopper-fp8+N, promoted every N of K, e.g. 128.  "
            "[default: exact]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What formats and recipes lose, on simulated data or on a checkpoint's weights."""
    from workbench.progress import weights_progress

    with weights_progress(quiet=as_json) as progress:
        report = workbench.error(
            recipes=recipe,
            formats=fmt,
            shape=shape,
            weight_shape=weight_shape,
            data=data,
            weights=weights,
            html=html,
            seed=seed,
            accumulation=accumulation,
            progress=progress,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        from workbench.error_tables import error_tables

        print_tables(*error_tables(report))
        if html is not None:
            print(html)
    if report.weights is not None and not report.weights.ranked:
        raise ValueError(
            f"{weights}: no tensor could be ranked, for the reasons listed: give a checkpoint with "
            "matrices of finite floating-point weights"
        )
