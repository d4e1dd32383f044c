"""A bf16 transformer block beside what ``predict --network`` says of it, forward and backward.

    python -m bench.block --commit HASH --output evidence/h200/block.json

Each case is a model's layer on a batch.  It is timed in torch, eager and compiled, launched from
the host and replayed as a CUDA graph: forward alone, and forward with backward; and where
``--variants`` names its recipe, as a block of ``workbench.nn``, launched and replayed too
(``jetfire-128 jetfire-128-graph``), which stands beside torch's times and no prediction.  Steps
follow one
another without a flush (a block's tensors exceed the L2), after half a second of themselves; the
time is the median.  Peak memory is what a step allocates above what stands before it.

A variant that torch refuses says why.  The file is written anew after each case, and the same
command goes on.  Without a GPU, ``--device cpu`` times small cases with the host's clock.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.block_timing import CODED, SETTLE_S, VARIANTS, Case, Clock, measure
from bench.command_line import recorded
from bench.place import place
from sim import load_gpu
from sim.network import Phase, Span
from workbench.networks import predict_network
from workbench.outfile import check_outfile, write_outfile
from workbench.time_limit import parse_time_limit

__all__ = ["CASES", "SCHEMA", "case_of", "main", "predict"]

SCHEMA = "tile-workbench/block/1"
MODELS = Path("examples/models")
#: What is asked of the prediction of forward and backward together.
ASKED_ERROR = 0.10


CASES = (
    Case(model=str(MODELS / "gpt-4096-block.json"), sequences=8, length=1024),
    Case(model=str(MODELS / "gpt-2048-block.json"), sequences=16, length=1024),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=4, length=2048),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=1, length=4096),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=1, length=512),
)


def predict(case: Case, gpu: str) -> dict[str, Any]:
    """What the cost model says of one layer under bf16; every figure is predicted.

    Raises:
        ValueError: no such model or GPU, or it cannot be predicted.
    """
    report = predict_network(
        gpu=gpu,
        model=case.model,
        batch=case.sequences,
        sequence=case.length,
        training=True,
        recipes=["bf16"],
        calibration="none",
    )
    if not report.rows:
        raise ValueError(f"{case}: {report.refused[0].reason}")
    cost = report.rows[0].cost

    def layer(span: Span) -> dict[str, Any]:
        times = [time_us / report.layers for time_us in (span.time_us, span.low_us, span.high_us)]
        return {"predicted_us": times[0], "predicted_interval_us": times[1:]}

    return {
        "forward": layer(cost.span(Phase.FORWARD)),
        "forward_backward": layer(report.rows[0].passes),
        "predicted_step_bytes": cost.memory.activations // report.layers + cost.memory.working,
        "predicted_parts_us": {
            part.value: span.time_us / report.layers for part, span in cost.parts.items()
        },
    }


def row_of(case: Case, predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """One case of the record: predicted and measured apart, errors of the one by the other."""
    errors = {
        phase: {
            variant: predicted[phase]["predicted_us"] / one["measured_us"] - 1
            for variant, one in variants.items()
            if "measured_us" in one and variant in VARIANTS
        }
        for phase, variants in measured.items()
    }
    return {
        "case": str(case),
        "model": Path(case.model).name,
        "sequences": case.sequences,
        "length": case.length,
        "predicted": predicted,
        "measured": measured,
        "error_of_prediction": errors,
    }


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        for phase, variants in row["measured"].items():
            predicted = row["predicted"][phase]["predicted_us"] / 1e3
            for variant, one in variants.items():
                what = f"{row['case']}, {phase}, {variant}"
                if "refused" in one:
                    lines.append(f"{what}: refused: {one['refused']}")
                    continue
                if variant not in VARIANTS:
                    lines.append(_beside(what, one, variants))
                    continue
                error = row["error_of_prediction"][phase][variant]
                lines.append(
                    f"{what}: predicted {predicted:.3f} ms, measured {one['measured_us'] / 1e3:.3f}"
                    f" ms, error {100 * error:+.1f} % (asked {100 * ASKED_ERROR:.0f})"
                )
    return lines


def _beside(what: str, one: dict[str, Any], variants: dict[str, Any]) -> str:
    """A block of ours beside torch's own of the same step."""
    text = f"{what}: measured {one['measured_us'] / 1e3:.3f} ms"
    for other in VARIANTS:
        if "measured_us" in (theirs := variants.get(other, {})):
            text += f", {theirs['measured_us'] / one['measured_us']:.2f} x {other}"
    mine, theirs = (
        found.get("peak_above_gradients_bytes") for found in (one, variants.get("eager", {}))
    )
    if mine is not None:
        text += f"; {mine / 2**20:.0f} MiB above parameters and gradients"
    return text if theirs is None else f"{text}, eager {theirs / 2**20:.0f}"


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    given = sys.argv[1:] if given is None else list(given)
    arguments = _arguments(given)
    try:
        end = time.monotonic() + parse_time_limit(arguments.time_limit)
        check_outfile(arguments.output, SCHEMA)
        cases = [case_of(text) for text in arguments.case] or list(CASES)
        variants = arguments.variants or list(VARIANTS)
        choices = (*VARIANTS, *CODED)
        if unknown := sorted(set(variants) - set(choices)):
            raise ValueError(f"variant {unknown[0]}: choose among {', '.join(choices)}")
        rows, sessions = _known(arguments.output, arguments.device)
        session = _session(arguments, recorded("bench.block", given))
        if other := {one["environment"]["gpu"] for one in sessions} - {
            session["environment"]["gpu"]
        }:
            raise ValueError(f"{arguments.output}: measured on {min(other)}: choose another")
        sessions.append(session)
        known = {row["case"]: row for row in rows}
        clock = Clock(arguments.device, arguments.settle_s)
        for case in cases:
            earlier = known.get(str(case), {"measured": {}})["measured"]
            left = [one for one in variants if not _measured(earlier, one)]
            if not left:
                continue
            if time.monotonic() >= end:
                print("the time is over: the same command goes on")
                break
            predicted = predict(case, arguments.gpu)
            measured = {
                phase: earlier.get(phase, {}) | one
                for phase, one in measure(case, arguments.device, left, clock).items()
            }
            known[str(case)] = row_of(case, predicted, measured)
            rows = list(known.values())
            content = {
                "schema": SCHEMA,
                "gpu": arguments.gpu,
                "device": arguments.device,
                "asked_error": ASKED_ERROR,
                "sessions": sessions,
                "rows": rows,
            }
            write_outfile(arguments.output, json.dumps(content, indent=1) + "\n")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in _lines(rows):
        print(line)
    return 0


def _measured(phases: dict[str, Any], variant: str) -> bool:
    """Whether every phase has its time; what was refused is tried again."""
    return bool(phases) and all("measured_us" in one.get(variant, {}) for one in phases.values())


def case_of(text: str) -> Case:
    """A model file and a batch, ``MODEL.json:SEQUENCESxLENGTH``.

    Raises:
        ValueError: it is written otherwise.
    """
    try:
        model, batch = text.rsplit(":", 1)
        sequences, length = batch.split("x")
        return Case(model=model, sequences=int(sequences), length=int(length))
    except ValueError:
        raise ValueError(f"--case {text}: write MODEL.json:SEQUENCESxLENGTH") from None


def _known(path: Path, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not path.exists() or not path.stat().st_size:
        return [], []
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("device") != device:
        raise ValueError(f"{path}: measured on {data.get('device')}, not {device}: choose another")
    return data["rows"], data["sessions"]


def _session(arguments: argparse.Namespace, command: str) -> dict[str, Any]:
    if arguments.device == "cpu":
        from tuning.environment import read_environment

        environment = read_environment("cpu").to_dict()
    else:
        environment = place(load_gpu(arguments.gpu), "time small cases with --device cpu")
    return {
        "commit": arguments.commit,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment,
    }


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.block", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200", help="whose prediction stands beside")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--case", action="append", default=[], metavar="MODEL.json:BxT")
    parser.add_argument("--variants", nargs="+", metavar="NAME")
    parser.add_argument("--settle-s", type=float, default=SETTLE_S)
    parser.add_argument("--time-limit", default="4m", help="begin no case after")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
