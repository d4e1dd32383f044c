"""Promotion tried out: a genuinely better entry over a worse one, and the other way round.

    python -m bench.promote --commit HASH --output evidence/h200/promote.json

Of every problem two configurations compete, one of which takes half as long again, as the cost
model sees it: once the worse one holds the entry and the better one is new, which must be promoted,
once the better one holds it, which must stay.  Both are measured by the engine of ``workbench
promote``, in turns.  ``--dry-run`` decides by the cost model alone, and says so.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.place import place
from bench.record_file import moment, write_record
from sim import Gpu, load_gpu, price
from tiles.kernels import kernel
from tiles.problems import parse_problem
from tuning.promotion.contest import Contender, Contest, Status
from tuning.promotion.run import plan_of, promote
from workbench.outfile import check_outfile
from workbench.promotions import Promotion

__all__ = ["PROBLEMS", "SCHEMA", "contest_of", "main"]

SCHEMA = "tile-workbench/promotions-tried/1"
#: Problems with the family that serves them.
PROBLEMS = (
    ("gemm:4096x4096x4096:bf16:bf16", "triton_gemm"),
    ("gemm:4096x2048x4096:e4m3-row:bf16", "triton_gemm"),
    ("gemm:16x4096x4096:int8-row:bf16", "triton_gemm"),
    ("gemm:4096x4096x4096:deepseek-fp8:bf16", "hopper_gemm"),
    ("quantize:4096x4096:e4m3fn.b1x128:bf16", "triton_quantize"),
)
#: How many times as long as the best one the worse one takes, as the model sees it: more than its
#: errors, and no walk-over.
TIMES = 1.5
MIN_GAIN = 0.03
#: Whether the new entry is the better one, and what must become of it.
DIRECTIONS = ((True, Status.PROMOTED), (False, Status.REFUSED))


def contest_of(text: str, family: str, gpu: Gpu, *, better: bool) -> Contest:
    """A problem's entry, and the one that is to replace it.

    Args:
        better: the new one is the better one.
    Raises:
        ValueError: the family does not serve the problem.
    """
    problem, one = parse_problem(text), kernel(family)
    if (refusal := one.refusal(problem, gpu.limits)) is not None:
        raise ValueError(f"{family} cannot serve {text}: {refusal}")
    table = one.legal_space(problem, gpu.limits).accepted
    times_us = price(problem, one, table, gpu).time_us
    good = int(np.argmin(times_us))
    bad = int(np.argmin(np.abs(np.log(times_us / (TIMES * times_us[good])))))
    old, new = (bad, good) if better else (good, bad)
    return Contest(
        problem=problem,
        old=Contender(kernel=family, config=table.config(old)),
        new=(Contender(kernel=family, config=table.config(new)),),
    )


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake, 1 where a decision is another."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    started = moment()
    try:
        if arguments.output is not None:
            check_outfile(arguments.output, SCHEMA)
        gpu = load_gpu(arguments.gpu)
        environment = {} if arguments.dry_run else place(gpu, "pass --dry-run")
        begun = time.monotonic()
        rows = _rows(gpu, simulate=arguments.dry_run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(_line(row, simulated=arguments.dry_run))
    content = {
        "seconds": round(time.monotonic() - begun, 1),
        "min_gain": MIN_GAIN,
        "rows": rows,
    }
    write_record(
        arguments,
        content,
        schema=SCHEMA,
        command="python -m bench.promote",
        started=started,
        environment=environment,
    )
    return 0 if all(row["as_expected"] for row in rows) else 1


def _rows(gpu: Gpu, *, simulate: bool) -> list[dict[str, Any]]:
    rows = []
    for better, expected in DIRECTIONS:
        contests = [contest_of(text, family, gpu, better=better) for text, family in PROBLEMS]
        with tempfile.TemporaryDirectory(prefix="workbench-promote-") as temporary:
            folder = Path(temporary) / "run"
            plan = plan_of(contests, gpu, folder, simulate=simulate, cache="cold", seed=0)
            done = promote(plan, contests, MIN_GAIN)
            names = ("better", "worse") if better else ("worse", "better")
            told = Promotion(
                new=names[0],
                over=names[1],
                min_gain=MIN_GAIN,
                simulated=simulate,
                verdicts=done.verdicts,
                run=done.run,
            ).to_dict()
        rows += [
            {
                "new_entry": names[0],
                "expected": expected.value,
                "as_expected": verdict.status is expected,
                **entry,
            }
            for verdict, entry in zip(done.verdicts, told["entries"], strict=True)
        ]
    return rows


def _line(row: dict[str, Any], *, simulated: bool) -> str:
    gain = row["simulated_gain" if simulated else "measured_gain"]
    how = "by the cost model, not measured" if simulated else "measured in turns"
    moved = "no times" if gain is None else f"{100 * gain:+.1f} % {how}"
    mark = "as expected" if row["as_expected"] else f"expected: {row['expected']}"
    return f"{row['problem']}: a {row['new_entry']} entry {row['status']} ({mark}), {moved}"


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.promote", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--dry-run", action="store_true", help="decide by the cost model alone")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
