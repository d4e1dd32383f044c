"""The verb ``convert``: tuned files from one serving engine's family to another's."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.console import Json, path_argument, print_json

__all__ = ["add_convert_verb"]

#: What was asked for was done in part.
EXIT_PARTLY = 1


def add_convert_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(convert)


def convert(
    folder: Annotated[Path, typer.Argument(parser=path_argument, help="A folder of tuned files.")],
    to: Annotated[str, typer.Option(help="vllm-linear, vllm-moe, sglang-linear or sglang-moe.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=path_argument, help="Another folder.")
    ],
    family: Annotated[
        str | None, typer.Option("--from", help="Family of the files.  [default: told by names]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="What vLLM's NVIDIA_H200 stands for, e.g. NVIDIA H200 NVL.")
    ] = None,
    triton: Annotated[str | None, typer.Option(help="X.Y.Z, of files that do not say it.")] = None,
    as_json: Json = False,
) -> None:
    """Rename and lay out tuned configurations as another serving engine reads them."""
    from workbench.deploy.convert import convert as convert_folder

    done = convert_folder(folder, to, output, family=family, device=device, triton=triton)
    if as_json:
        print_json(done.to_dict())
    else:
        for path in done.files:
            print(path)
        for left in done.left_out:
            print(left)
        print(f"{done.sources} files converted, {len(done.left_out)} not")
    if done.left_out:
        raise typer.Exit(EXIT_PARTLY)
