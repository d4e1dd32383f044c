"""The verb ``quantize`` of the command line."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.console import Json, path_argument, print_json, print_tables
from workbench.text_table import Column, TextTable

if TYPE_CHECKING:
    from workbench.ptq import Quantized, Scheme
    from workbench.ptq.search import Trial
    from workbench.ptq.weight_file import QuantizedWeights

__all__ = ["add_quantize_verb"]

#: Names of kept operators that a line of reasons shows.
NAMES_SHOWN = 4


def add_quantize_verb(app: typer.Typer) -> None:
    """Register the verb of this file."""
    app.command()(quantize)


def quantize(
    task: Annotated[
        str | None, typer.Argument(help="module:NAME of a task, looked for in this folder first.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe name: the formats.")] = "fp8-ptq-e4m3",
    scheme: Annotated[str, typer.Option(help="standard or extended.")] = "standard",
    criterion: Annotated[
        str, typer.Option(help="Largest relative loss of the score, as 1% or 0.01.")
    ] = "1%",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=path_argument,
            help="A folder, or with --weights a .safetensors file.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(parser=path_argument, help="A checkpoint whose weights alone are rounded."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of names that stay in high precision, repeatable."),
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Scales of activations: max, mse or p<percentile>, as p99.9.")
    ] = "max",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Scales of each call's data, not calibrated ones.")
    ] = False,
    smooth: Annotated[
        float | None, typer.Option(help="SmoothQuant's alpha, 0 to 1.  [default: not smoothed]")
    ] = None,
    gptq: Annotated[bool, typer.Option("--gptq", help="Weights of linear layers by GPTQ.")] = False,
    act_order: Annotated[
        bool, typer.Option("--act-order", help="GPTQ in the order of the inputs' energy.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Quantise a trained model by a recipe, and let operators fall back until its score holds."""
    patterns = tuple(keep or ())
    if (task is None) == (weights is None):
        raise ValueError("give either module:NAME of a task, or a checkpoint by --weights")
    if weights is not None:
        _refuse_options(
            scheme=scheme != "standard",
            criterion=criterion != "1%",
            calibration=calibration != "max",
            dynamic=dynamic,
            smooth=smooth is not None,
            gptq=gptq,
            act_order=act_order,
        )
        if output is None:
            raise ValueError("--weights needs --output FILE.safetensors")
        _weights(weights, recipe, output, patterns, as_json)
        return
    from workbench.ptq import Calibration
    from workbench.ptq.scheme import scheme_of

    chosen = replace(
        scheme_of(scheme),
        calibration=Calibration.parse(calibration),
        dynamic=dynamic,
        smooth=smooth,
        gptq=gptq,
        act_order=act_order,
    )
    assert task is not None
    _task(task, recipe, chosen, share_of(criterion), output, patterns, as_json)


def share_of(text: str) -> float:
    """A share, written ``1%`` or ``0.01``.

    Raises:
        ValueError: not a number from 0 to below 1.
    """
    percent = text.endswith("%")
    try:
        value = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise ValueError(f"--criterion {text!r}: a relative loss as 1% or 0.01, below 100%")
    return value


def _refuse_options(**given: bool) -> None:
    for name, used in given.items():
        if used:
            raise ValueError(
                f"--{name.replace('_', '-')} needs a task, which has data: leave it out, or give "
                "module:NAME instead of --weights"
            )


def _task(
    text: str,
    recipe: str,
    scheme: "Scheme",
    criterion: float,
    output: Path | None,
    keep: tuple[str, ...],
    as_json: bool,
) -> None:
    from workbench.outfile import check_outfile, write_outfile
    from workbench.ptq import load_task, quantize_task
    from workbench.ptq.quantized import SCHEMA
    from workbench.ptq.tensor_file import check_tensor_file

    if output is not None:
        _check_folder(output)
        check_outfile(output / "quantized.json", SCHEMA)
        check_tensor_file(output / "model.safetensors")
    found = load_task(text)

    def tell(trial: "Trial") -> None:
        if not as_json:
            print(_trial_line(trial), flush=True)

    made = quantize_task(
        found, recipe, scheme=scheme, criterion=criterion, keep=keep, progress=tell
    )
    record = made.record() | {"task": found.name, "source": text, "ran": made.ran}
    if output is not None:
        made.save(output / "model.safetensors")
        write_outfile(output / "quantized.json", json.dumps(record, indent=2) + "\n")
    if as_json:
        print_json(record)
        return
    _print_quantized(found.name, made)
    if output is not None:
        print(f"wrote {output / 'model.safetensors'} and {output / 'quantized.json'}")


def _check_folder(path: Path) -> None:
    """Refuse a folder that files cannot be written into, before any work is done for them."""
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise ValueError(f"{there}: is a file: give --output a folder, or a name that is free")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there}: is closed to writing: choose another --output")


def _trial_line(trial: "Trial") -> str:
    what = f"{trial.action} {trial.operator}".strip()
    held = "holds" if trial.holds else "does not hold"
    back = "" if trial.stays else ": undone"
    return f"{what}: score {trial.score:.6g}, loss {100 * trial.loss:.3g} %, {held}{back}"


def _print_quantized(name: str, made: "Quantized") -> None:
    rows: list[dict[str, Any]] = []
    for one in made.operators:
        formats = ", ".join(f"{role} {fmt}" for role, fmt in one.formats.items())
        rows.append({"name": one.name, "kind": one.kind, "formats": formats, "kept": "",
                     "noise": one.sensitivity})  # fmt: skip
    for kept in made.kept:
        if kept.kind:
            rows.append({"name": kept.name, "kind": kept.kind, "formats": "-", "kept": kept.reason,
                         "noise": kept.sensitivity})  # fmt: skip
    print_tables(
        TextTable(
            title=f"{name}: {made.recipe.name}, {made.scheme} scheme",
            columns=[
                Column(header="operator", cells=[r["name"] for r in rows]),
                Column(header="kind", cells=[r["kind"] for r in rows]),
                Column(header="formats", cells=[r["formats"] for r in rows]),
                Column(header="sensitivity\ndB", cells=[_db(r["noise"]) for r in rows], right=True),
                Column(header="kept in high precision", cells=[r["kept"] or "-" for r in rows]),
            ],
        )
    )
    _print_reasons(made)
    for formats, ran in made.ran.items():
        print(f"ran {formats}: {ran}")
    scores = made.scores
    assert scores is not None  # a task scores
    print(
        f"score: {scores.reference:.6g} in high precision, {scores.quantized:.6g} all quantised, "
        f"{scores.final:.6g} as it is now: loss {100 * scores.loss:.3g} %, the criterion of "
        f"{100 * scores.criterion:g} % {'holds' if scores.holds else 'does not hold'}"
    )


def _db(ratio: float | None) -> str:
    """A noise-to-signal ratio in decibels: the higher, the more sensitive."""
    if ratio is None or not math.isfinite(ratio):
        return "-"
    return f"{10 * math.log10(ratio):.1f}" if ratio > 0 else "exact"


def _print_reasons(made: "Quantized") -> None:
    """Functions and layers that are no operators of the scheme, by reason."""
    by_reason: dict[str, list[str]] = {}
    for kept in made.kept:
        if not kept.kind:
            by_reason.setdefault(kept.reason, []).append(kept.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        print(f"not quantised: {', '.join(names[:NAMES_SHOWN])}{more}: {reason}")


def _weights(source: Path, recipe: str, output: Path, keep: tuple[str, ...], as_json: bool) -> None:
    from workbench.progress import weights_progress
    from workbench.ptq import quantize_weights

    with weights_progress(quiet=as_json) as progress:
        made = quantize_weights(
            source,
            recipe,
            output,
            keep=keep,
            progress=progress,
        )
    if as_json:
        print_json(made.record())
        return
    _print_weights(made)


def _print_weights(made: "QuantizedWeights") -> None:
    from workbench.printable import printable

    tensors = made.tensors
    print_tables(
        TextTable(
            title=f"weights in {made.recipe.weight} ({made.recipe.name})",
            columns=[
                Column(header="tensor", cells=[_ascii(printable(t.name)) for t in tensors]),
                Column(header="shape", cells=["x".join(map(str, t.shape)) for t in tensors]),
                Column(header="format", cells=[t.format for t in tensors]),
                Column(header="bytes", cells=[str(t.stored_bytes) for t in tensors], right=True),
                Column(header="kept as it is", cells=[t.reason or "-" for t in tensors]),
            ],
        )
    )
    print(f"wrote {made.output}: {len(made.quantized)} of {len(tensors)} tensors quantised")


def _ascii(text: str) -> str:
    return text if text.isascii() else ascii(text)[1:-1]
