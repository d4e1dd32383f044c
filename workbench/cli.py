"""The command line: parses and prints; every verb is a function of ``workbench``."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

import workbench
from workbench.calibrate_verb import add_calibrate_verb
from workbench.calibrations import calibration_lines
from workbench.console import CalibrationFile, Json, Storage
from workbench.console import path_argument as _path
from workbench.console import print_json as _print_json
from workbench.console import print_tables as _print
from workbench.convert_verb import add_convert_verb
from workbench.emit_verb import add_emit_verb
from workbench.evaluate_verb import add_evaluate_verb
from workbench.fleet_verbs import add_fleet_verbs
from workbench.lint_verb import add_lint_verb
from workbench.outfile import check_outfile
from workbench.promote_verb import add_promote_verb
from workbench.quantize_verb import add_quantize_verb
from workbench.shared import stale_lines
from workbench.study_verbs import add_study_verbs

__all__ = ["app", "main"]

app = typer.Typer(
    name="workbench",
    help="Predict, search, emit and verify low-precision GPU kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: The base of every mistake in how a command was called (unknown option, bad value); typer shows
#: only its subclass for bad values.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: Exit code of a caller's mistake, of a failed verification, of Ctrl-C and of SIGTERM.
EXIT_MISTAKE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 1, 130, 143

#: Verbs that go on where they were stopped.
RESUMED = ("sweep", "worker", "calibrate", "promote")


@app.command()
def predict(
    gpu: Annotated[str, typer.Option(help="A name from `workbench gpus`, or a GPU file.")] = "h200",
    shape: Annotated[list[str] | None, typer.Option(help="MxNxK, repeatable.")] = None,
    model: Annotated[
        Path | None, typer.Option(parser=_path, help="A Hugging Face config.json.")
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
        _print_json(report.to_dict())
    elif report.rows:
        _print_predictions(report, reasons=bool(recipe or fmt), energy=energy)
    if not report.rows:
        first, *others = report.refused
        more = f" (and {len(others)} more refused; --json lists them)" if others else ""
        raise ValueError(f"nothing was predicted: {first.problem}: {first.reason}{more}")


def _print_predictions(report: workbench.PredictionReport, *, reasons: bool, energy: bool) -> None:
    from workbench.prediction_tables import energy_tables, extrapolated_lines, prediction_tables

    _print(*prediction_tables(report))
    if energy:
        _print(*energy_tables(report))
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


@app.command()
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
        typer.Option(parser=_path, help="Rank formats on a safetensors file or folder instead."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(parser=_path, help="With --weights: also write a page.")
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
        _print_json(report.to_dict())
    else:
        from workbench.error_tables import error_tables

        _print(*error_tables(report))
        if html is not None:
            print(html)
    if report.weights is not None and not report.weights.ranked:
        raise ValueError(
            f"{weights}: no tensor could be ranked, for the reasons listed: give a checkpoint with "
            "matrices of finite floating-point weights"
        )


@app.command()
def gpus(as_json: Json = False) -> None:
    """List the GPUs that the cost model knows."""
    from sim import gpu_names, load_gpu

    loaded = [load_gpu(name) for name in gpu_names()]
    if as_json:
        _print_json({"schema": "tile-workbench/gpus/1", "gpus": [g.name for g in loaded]})
        return
    from workbench.tables import gpu_table

    _print(gpu_table(loaded))


@app.command()
def formats(as_json: Json = False) -> None:
    """List elements, scale formats and rules, roundings, and recipes with their sources."""
    if as_json:
        from workbench.format_facts import formats_dict

        _print_json(formats_dict())
        return
    from workbench.tables import format_tables

    _print(*format_tables())


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(parser=_path, help="A sweep file, e.g. examples/llama-3-8b.yaml.")
    ],
    on: Annotated[str | None, typer.Option(help="gpu, sim or auto; overrides the file.")] = None,
    output: Annotated[
        Path | None, typer.Option(parser=_path, help="Run folder; overrides the file.")
    ] = None,
    max_measurements: Annotated[
        int | None, typer.Option(help="Measurements a study; overrides the file.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="Of the whole sweep, e.g. 30m; overrides the file.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What winners have the least of: time or energy; overrides the file."),
    ] = None,
    storage: Storage = None,
    study: Annotated[
        str | None,
        typer.Option(help="Name in the storage.  [default: the run folder's name]"),
    ] = None,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Launch also what is known to fail.")
    ] = False,
    revalidate: Annotated[
        bool, typer.Option("--revalidate", help="Only measure stored winners and runners-up again.")
    ] = False,
    allow_stale: Annotated[
        bool, typer.Option("--allow-stale", help="Go on although driver or versions have changed.")
    ] = False,
    calibration: CalibrationFile = None,
    as_json: Json = False,
) -> None:
    """Search kernel configurations for every problem of a sweep file; resumes where it stopped."""
    from workbench.progress import sweep_progress

    for refused in workbench.unserved(file, on=on):
        print(f"not swept: {refused}", file=sys.stderr)
    with sweep_progress(quiet=as_json) as progress:
        run = workbench.sweep(
            file,
            on=on,
            output=output,
            max_measurements=max_measurements,
            time_limit=time_limit,
            objective=objective,
            storage=storage,
            study=study,
            retry_failures=retry_failures,
            revalidate=revalidate,
            allow_stale=allow_stale,
            calibration=calibration,
            progress=progress,
        )
    if as_json:
        _print_json(workbench.winners(run))
        return
    from workbench.tables import winner_table

    _print(winner_table(run))
    for line in calibration_lines(run):
        print(line)
    for line in stale_lines(run):
        print(f"stale: {line}")


@app.command()
def repair(
    study: Annotated[
        Path, typer.Argument(parser=_path, help="A run folder whose journal is damaged.")
    ],
) -> None:
    """Set a journal's torn end aside, so that a sweep cut off in mid-write goes on."""
    aside = workbench.repair(study)
    print(f"{aside} bytes set aside in {study}/journal.log.torn" if aside else "nothing to repair")


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(parser=_path, help="An emitted folder or its wheel.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(parser=_path, help="Also write the report as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Install a package in a throw-away environment and check digests, answers and speed."""
    if output is not None:
        from workbench.verification.report import SCHEMA

        check_outfile(output, SCHEMA)  # a verification takes minutes
    report = workbench.verify(package, device=device)
    if output is not None:
        report.write(output)
    if as_json:
        _print_json(report.to_dict())
    else:
        from workbench.check_tables import verify_tables

        _print(*verify_tables(report))
    if not report.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def report(
    study: Annotated[
        Path,
        typer.Argument(parser=_path, help="A run folder, e.g. runs/llama-3-8b, or one of many."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=_path, help="HTML file; the folder of a site."),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML page about a sweep, or a site about a folder of them."""
    print(workbench.report(study, output, storage=storage))


add_emit_verb(app)
add_study_verbs(app)
add_calibrate_verb(app)
add_evaluate_verb(app)
add_quantize_verb(app)
add_fleet_verbs(app)
add_convert_verb(app)
add_lint_verb(app)
add_promote_verb(app)


class _Terminated(BaseException):
    """SIGTERM arrived; unwinding ends the measuring process, which may hang in a kernel."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Entry point: a caller's mistake is one line on stderr and exit code 2."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer's answer to a KeyboardInterrupt
            raise typer.Abort
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is still reported; at exit it is ignored
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)()
        if not message:  # called without a verb: the help was printed
            sys.exit(EXIT_MISTAKE)
        _mistake(message, error)
    except typer.Abort:
        print(f"interrupted; {_after_a_stop()}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except _Terminated:
        print(f"terminated; {_after_a_stop()}", file=sys.stderr)
        sys.exit(EXIT_TERMINATED)
    except OSError as error:
        _system_error(error)
    except ValueError as error:
        _mistake(str(error), error)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code or 0)


def _after_a_stop() -> str:
    """What a command that was stopped leaves behind: sweeps are recorded trial by trial."""
    verb = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    if verb in RESUMED:
        return "nothing is lost, the same command goes on"
    return "the same command begins anew"


def _system_error(error: OSError) -> None:
    """What the operating system refused: a path, or the output that this process writes to."""
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        _mistake(f"{error.filename}: {reason}: check the path", error)
    # What the buffer still holds would fail once more, with a traceback, when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        sys.exit(EXIT_FAILED)  # the reader, e.g. head, has seen enough
    _mistake(f"output cannot be written: {reason}: free space or write elsewhere", error)


def _mistake(message: str, error: Exception) -> None:
    """Print one line; developers see the traceback with WORKBENCH_TRACEBACK=1."""
    if os.environ.get("WORKBENCH_TRACEBACK"):
        raise error
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(EXIT_MISTAKE)
