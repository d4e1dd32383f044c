"""A Llama-like block patched by an emitted package, beside bf16 and what ``predict`` says of both.

    python -m bench.patch --package out/ --commit HASH --output evidence/h200/patch.json

Without ``--package`` one is emitted on the spot from a simulated sweep: the cost model's best
configurations, never measured.  ``--profile`` lists what both launch, kernel by kernel, beside
the operators that were predicted.  ``--dry-run`` runs the same on a tiny block in Triton's
interpreter and times nothing.
"""

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.block_timing import SETTLE_S, Case, Clock
from bench.patched_block import (
    emitted_for,
    imported,
    measure_patched,
    predict_patched,
    profile_patched,
)
from bench.place import place
from bench.record_file import moment, write_record
from sim import load_gpu
from sim.calibration.folder import NO_CALIBRATION
from workbench.outfile import check_outfile

__all__ = ["SCHEMA", "main"]

SCHEMA = "tile-workbench/patched-block/1"
MODEL = "examples/models/llama-3-8b.json"
CASES = ("4x2048", "1x512")
RECIPES = ("deepseek-fp8", "int8-row")
#: What is asked of the speed-up that is predicted.
ASKED = 0.10
TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def _line(row: dict[str, Any]) -> str:
    measured, predicted = row["measured"], row["predicted"]
    off = measured["speedup"] / predicted["speedup"] - 1
    return (
        f"{row['case']}, {row['recipe']}: error {measured['error']:.4f} "
        f"(bound {measured['error_bound']:.4f}); measured {measured['bf16_us']:.1f} us bf16, "
        f"{measured['patched_us']:.1f} us patched, x{measured['speedup']:.3f}; predicted "
        f"{predicted['bf16_us']:.1f} us, {predicted['patched_us']:.1f} us, "
        f"x{predicted['speedup']:.3f}; off by {100 * off:+.1f} % (asked {100 * ASKED:.0f})"
    )


def _without_nan(measured: dict[str, Any]) -> dict[str, Any]:
    """What a dry run has not timed is null in a file."""
    return {
        key: None if isinstance(one, float) and math.isnan(one) else one
        for key, one in measured.items()
    }


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake, 1 for an error beyond its bound."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported
    started = moment()
    try:
        if arguments.output is not None:
            check_outfile(arguments.output, SCHEMA)
        rows, environment = _rows(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(_line(row))
    content = {
        "asked": ASKED,
        "rows": [row | {"measured": _without_nan(row["measured"])} for row in rows],
    }
    write_record(
        arguments,
        content,
        schema=SCHEMA,
        command="python -m bench.patch",
        started=started,
        environment=environment,
    )
    wrong = [row for row in rows if row["measured"]["error"] > row["measured"]["error_bound"]]
    return 1 if wrong else 0


def _rows(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    dry = arguments.dry_run
    environment = {} if dry else place(load_gpu(arguments.gpu), "pass --dry-run")
    with tempfile.TemporaryDirectory(prefix="workbench-patch-") as temporary:
        folder = Path(temporary)
        model = arguments.model
        if dry:
            model = str(folder / "tiny.json")
            Path(model).write_text(json.dumps(TINY), encoding="utf-8")
        cases = [_case(model, text) for text in (["2x8"] if dry else arguments.cases)]
        asked = list(itertools.product(cases, arguments.recipes))
        # Predicted first of all: what cannot be is told before anything is measured.
        rows: list[dict[str, Any]] = [
            {
                "case": str(case),
                "recipe": name,
                "predicted": predict_patched(case, arguments.gpu, name, arguments.calibration),
            }
            for case, name in asked
        ]
        package = arguments.package
        if package is None:
            most = 1 if dry else 8
            package = emitted_for(cases, arguments.recipes, arguments.gpu, folder, most=most).folder
        clock = None if dry else Clock("cuda", arguments.settle_s)
        with imported(package) as module:
            for row, (case, name) in zip(rows, asked, strict=True):
                device = "cpu" if dry else "cuda"
                row["measured"] = measure_patched(case, name, module, device, clock)
            if arguments.profile and not dry:
                for row, (case, name) in zip(rows, asked, strict=True):
                    row["profiled"] = profile_patched(case, name, module)
    return rows, environment


def _case(model: str, text: str) -> Case:
    try:
        sequences, length = map(int, text.split("x"))
    except ValueError:
        raise ValueError(f"--cases {text}: write SEQUENCESxLENGTH, 4x2048") from None
    return Case(model=model, sequences=sequences, length=length)


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.patch", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--model", default=MODEL, help="a config.json; one layer of it is taken")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="SEQUENCESxLENGTH")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), metavar="NAME")
    parser.add_argument("--package", type=Path, help="folder that emit has written")
    parser.add_argument("--settle-s", type=float, default=SETTLE_S)
    parser.add_argument(
        "--calibration", default=NO_CALIBRATION, help="a file of workbench calibrate to predict by"
    )
    parser.add_argument("--profile", action="store_true", help="list the kernels, behind the times")
    parser.add_argument("--dry-run", action="store_true", help="a tiny block, nothing is timed")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
