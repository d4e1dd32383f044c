"""The verb ``lint``: a folder of tuned files, checked and mended."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.console import Json, path_argument, print_json

__all__ = ["add_lint_verb"]

EXIT_FOUND = 1


def add_lint_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(lint)


def lint(
    folder: Annotated[Path, typer.Argument(parser=path_argument, help="A folder of tuned files.")],
    family: Annotated[
        str | None,
        typer.Option(help="vllm-linear, sglang-moe, ...  [default: told by folders and names]"),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Of a model's files: a name, or a GPU file.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(parser=path_argument, help="A Hugging Face config.json.")
    ] = None,
    tp: Annotated[int, typer.Option(help="Ranks that share a layer, with --model.")] = 1,
    ep: Annotated[int, typer.Option(help="Ranks that experts are spread over.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Of the model's weights, e.g. fp8_w8a8, or none.")
    ] = None,
    block_shape: Annotated[str | None, typer.Option(help="Of its scales, e.g. 128x128.")] = None,
    triton: Annotated[str | None, typer.Option(help="X.Y.Z of the server.")] = None,
    run: Annotated[
        Path | None, typer.Option(parser=path_argument, help="A run folder to judge lookups by.")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be; originals stay as .bak1, ...")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what a serving engine would stumble over, pass over or be slow with."""
    from workbench.deploy.lint import lint as lint_folder

    report = lint_folder(
        folder,
        family=family,
        gpu=gpu,
        model=model,
        tp=tp,
        ep=ep,
        dtype=dtype,
        block_shape=block_shape,
        triton=triton,
        run=run,
        fix=fix,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        for line in report.fixed:
            print(f"mended: {line}")
        for finding in report.findings:
            print(finding)
        print(report.summary)
    if report.findings:
        raise typer.Exit(EXIT_FOUND)
