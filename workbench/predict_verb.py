"""The verb ``predict`` of the command line."""

from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.console import CalibrationFile, Json, path_argument, print_json, print_tables

__all__ = ["add_predict_verb"]


def add_predict_verb(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(predict)


def predict(
    gpu: Annotated[str, typer.Option(help="A name from `workbench gpus`, or a GPU file.")] = "h200",
    shape: Annotated[list[str] | None, typer.Option(help="MxNxK, repeatable.")] = None,
    model: Annotated[
        Path | None, typer.Option(parser=path_argument, help="A Hugging Face config.json.")
    ] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Rows M, with --model.")] = None,
    tp: Annotated[int, typer.Option(help="Tensor-parallel degree, with --model.")] = 1,
    recipe: Annotated[list[str] | None, typer.Option(help="Recipe name, repeatable.")] = None,
    fmt: Annotated[
        list[str] | None,
        typer.Option("--format", help="Element or tensor format of the activations, repeatable."),
    ] = None,
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernel family of the product, repeatable.")
    ] = None,
    out: Annotated[str, typer.Option(help="Output format: bf16, fp16 or fp32.")] = "bf16",
    network: Annotated[
        bool, typer.Option("--network", help="The model's layers as a whole: time and memory.")
    ] = False,
    training: Annotated[
        bool, typer.Option("--training", help="The same, backward and optimizer besides.")
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="Sequences, of a network.  [default: 1]")
    ] = None,
    sequence: Annotated[int | None, typer.Option(help="Tokens of a sequence.")] = None,
    calibration: CalibrationFile = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Energy too, and the Pareto front with time and error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predicted time, speed-up over bf16, binding limit and quantisation error per format."""
    if network or training or batch is not None or sequence is not None:
        from workbench.network_verb import predict_network_verb

        predict_network_verb(
            gpu=gpu,
            model=model,
            batch=batch,
            sequence=sequence,
            training=training,
            network=network,
            recipes=workbench.select_recipes(recipe, fmt),
            calibration=calibration,
            of_products={
                "--shape": bool(shape),
                "--tokens": bool(tokens),
                "--tp": tp != 1,
                "--kernel": bool(kernel),
                "--out": out != "bf16",
                "--energy": energy,
            },
            as_json=as_json,
        )
        return
    report = workbench.predict(
        gpu=gpu,
        shapes=shape or (),
        model=model,
        tokens=tokens or (),
        tp=tp,
        recipes=workbench.select_recipes(recipe, fmt),
        families=kernel,
        out=out,
        calibration=calibration,
    )
    if as_json:
        print_json(report.to_dict())
    elif report.rows:
        _print_predictions(report, reasons=bool(recipe or fmt), energy=energy)
    if not report.rows:
        first, *others = report.refused
        more = f" (and {len(others)} more refused; --json lists them)" if others else ""
        raise ValueError(f"nothing was predicted: {first.problem}: {first.reason}{more}")


def _print_predictions(report: workbench.PredictionReport, *, reasons: bool, energy: bool) -> None:
    from workbench.prediction_tables import energy_tables, extrapolated_lines, prediction_tables

    print_tables(*prediction_tables(report))
    if energy:
        print_tables(*energy_tables(report))
    for line in report.calibration:
        print(line)
    for line in extrapolated_lines(report):
        print(line)
    if reasons:
        for refused in report.refused:
            print(f"not predicted: {refused.problem}: {refused.reason}")
    elif report.refused:
        names = ", ".join(dict.fromkeys(refused.problem.recipe.name for refused in report.refused))
        print(f"not predicted (--recipe NAME says why): {names}")
