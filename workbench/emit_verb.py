"""The verb ``emit`` of the command line."""

import re
from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import Json, Storage, path_argument, print_json
from workbench.emission.targets import DEFAULT, TARGETS

__all__ = ["add_emit_verb", "share"]

_HELP = "Write what ships of a sweep: by default a pip-installable package, and its wheel."
#: A blank line keeps help in paragraphs.
_TARGETS = "\n\n".join(f"{one.name}: {one.description}." for one in TARGETS.values())


def add_emit_verb(app: typer.Typer) -> None:
    """Register the verb of this file."""
    app.command(help=f"{_HELP}\n\nTargets:\n\n{_TARGETS}")(emit)


def share(text: str) -> float:
    """``"2%"`` or ``"0.02"`` as a number.

    Raises:
        typer.BadParameter: neither, or not from 0 to below 100 %.
    """
    percent = text.strip().endswith("%")
    number = text.strip().removesuffix("%")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number):
        raise typer.BadParameter(f"{text[:60]!r} is no share: write e.g. 2% or 0.02")
    value = float(number) / (100 if percent else 1)
    if not value < 1:
        raise typer.BadParameter(f"{text[:60]!r} is 100 % or more: write e.g. 2% or 0.02")
    return value


def emit(
    study: Annotated[
        Path, typer.Argument(parser=path_argument, help="A run folder, e.g. runs/llama-3-8b.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=path_argument, help="Folder to create.")
    ],
    target: Annotated[str, typer.Option(help=f"One of {', '.join(TARGETS)}.")] = DEFAULT,
    name: Annotated[str | None, typer.Option(help="Name of the package.")] = None,
    rows_loss: Annotated[
        float | None,
        typer.Option(
            parser=share,
            metavar="SHARE",
            help="Keep as few M as lookup needs to lose at most e.g. 2%.  [default: every tuned M]",
        ),
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(help="OWNER/NAME on the Hub, with --target hf-kernels.")
    ] = None,
    problem: Annotated[
        str | None, typer.Option(help="Which study, with --target kernel-tuner-t4.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="The same, by kernel family.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="As the driver names it, with vllm-* and sglang-*.  [default: measured]"),
    ] = None,
    triton: Annotated[
        str | None, typer.Option(help="X.Y.Z, with the same targets.  [default: measured]")
    ] = None,
    storage: Storage = None,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Also where driver or versions have changed.")
    ] = False,
    as_json: Json = False,
) -> None:
    done = workbench.emit(
        study,
        output,
        target=target,
        name=name,
        storage=storage,
        allow_stale=allow_stale,
        rows_loss=rows_loss,
        repo_id=repo_id,
        problem=problem,
        kernel=kernel,
        device=device,
        triton=triton,
    )
    if as_json:
        print_json(done.to_dict())
        return
    for line in done.lines():
        print(line)
