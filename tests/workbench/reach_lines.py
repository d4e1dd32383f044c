"""Lines of the table of ratios that are made up."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from bench.reach import rows_of
from bench.reach_table import Line
from tiles.problems import parse_problem
from workbench.verification import RivalTiming

H200 = "NVIDIA H200"
SQUARE = "gemm:4096x4096x4096:bf16:bf16"


def lined(text: str = SQUARE) -> tuple[Line, Any]:
    problem = parse_problem(text)
    (row, *_) = rows_of(problem, any_shape=True)
    line = Line(
        row=row,
        problem=problem,
        kernel="host_gemm",
        config={},
        run="0",
        swept_us=1.0,
        source_sha256="ab",
    )
    return line, SimpleNamespace(config=None)


SESSION = {"environment": {"gpu": H200}, "commit": "ab"}


def timed(line: Line, us: float = 10.0) -> Line:
    return replace(line, ours=RivalTiming(problem="", rival="ours", time_us=us, samples_us=(us,)))
