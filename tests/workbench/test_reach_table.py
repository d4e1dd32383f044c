"""Ratios, geometric means, worst cases and refusals, as numbers and as text."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from bench.kernels_record import record_text
from bench.reach import ISSUE, JETFIRE, MATMUL, PROMOTION, ROWS, Goal, Row
from bench.reach_table import Bound, Line, line_text, summaries, table_text, timing_of
from tiles.kernels import kernels
from tiles.problems import parse_problem
from workbench.verification import RivalTiming

BY_NAME = {row.name: row for row in ROWS}
BF16, BLOCK = BY_NAME["bf16"], BY_NAME["e4m3fn 1x128 / 128x128"]
INT8 = BY_NAME["int8 128x128, bf16 out"]
DATAFLOW = BY_NAME["INT8 dataflow, stochastic rounding"]
JETFIRE_CODES = BY_NAME["int8 32x32, int8 + scales out"]
DEEP_GEMM, PEERS = "DeepGEMM", Goal()


def timed(name: str, time_us: float) -> RivalTiming:
    problem = parse_problem("gemm:4096x4096x4096:bf16:bf16")
    return timing_of(problem, name, [time_us - 1, time_us, time_us, time_us + 1], "events-cold")


def line(row: Row, text: str, ours: float, *peers: float | str, **more: Any) -> Line:
    """Times of ours and of the row's peers; a text is a refusal."""
    rivals = [
        timed(name, peer)
        if isinstance(peer, float)
        else RivalTiming(problem=text, rival=name, time_us=None, refused=peer)
        for name, peer in zip(row.peers, peers, strict=False)
    ]
    return Line(
        row=row,
        problem=parse_problem(text),
        kernel="hopper_gemm",
        config={"block_m": 128},
        run="runs/kernels",
        swept_us=ours,
        source_sha256="ab",
        ours=timed("ours", ours),
        peers=tuple(rivals),
        **more,
    )


def test_samples_are_summed_up_as_a_sweep_does() -> None:
    problem = parse_problem("gemm:4096x4096x4096:bf16:bf16")
    samples = [5.0, 1.0, 2.0, 8.0, 3.0, 4.0, 7.0, 6.0]
    found = timing_of(problem, "ours", samples, "graph-rotate", note="as it is")
    assert (found.time_us, found.iqr_us) == (4.5, 7.0 - 3.0)
    assert found.samples_us == tuple(samples)
    assert (found.timing, found.note) == ("graph-rotate", "as it is")
    with pytest.raises(ValueError, match=r"gemm:4096.*, ours: no sample"):
        timing_of(problem, "ours", [], "graph-rotate")


def test_a_ratio_is_the_fastest_peers_time_over_ours() -> None:
    both = line(BLOCK, "gemm:4096x4096x4096:deepseek-fp8:bf16", 100.0, 120.0, 110.0)
    assert both.ratio(PEERS) == pytest.approx(1.1)
    assert both.reference(PEERS) == (110.0, DEEP_GEMM)
    one = line(BLOCK, "gemm:4096x2112x7168:deepseek-fp8:bf16", 100.0, "N % 128", 90.0)
    assert one.ratio(PEERS) == pytest.approx(0.9)
    none = line(BLOCK, "gemm:4096x2112x7168:deepseek-fp8:bf16", 100.0, "N % 128", "missing")
    assert none.ratio(PEERS) is None


def test_a_wrong_answer_has_no_ratio() -> None:
    failed = line(BF16, "gemm:4096x4096x4096:bf16:bf16", 10.0, 20.0, wrong="C[0, 1] = 7")
    assert failed.ratio(PEERS) is None


def test_a_bound_counts_where_it_is_longer_than_the_peer() -> None:
    text = "dataflow:8192x8192:gelu:int8.b32x32+sr"
    goal = DATAFLOW.goals[0]
    for bound, ratio in ((90.0, 0.9), (70.0, 0.8), (None, 0.8)):
        found = line(DATAFLOW, text, 100.0, 80.0, bounds=(Bound(name=ISSUE, time_us=bound),))
        assert found.ratio(goal) == pytest.approx(ratio)


def test_a_goal_may_name_a_bound_a_record_or_a_peer() -> None:
    found = line(
        JETFIRE_CODES,
        "gemm:4096x4096x4096:jetfire:int8.b32x32",
        200.0,
        180.0,
        600.0,
        bounds=(Bound(name=PROMOTION, time_us=150.0, how="conversion and FMA"),),
    )
    rows = {one.against: one for one in summaries([found]) if one.row == JETFIRE_CODES.name}
    assert {name: (one.geomean, one.reached) for name, one in rows.items()} == {
        PROMOTION: (pytest.approx(0.75), False),
        JETFIRE: (pytest.approx(3.0), True),
        MATMUL: (pytest.approx(0.9), None),
    }


def of_row(row: Row, lines: list[Line]) -> list[Any]:
    return [one for one in summaries(lines) if one.row == row.name]


def test_rows_are_summed_up_by_geometric_mean_and_worst() -> None:
    (row,) = of_row(
        BF16,
        [
            line(BF16, "gemm:4096x4096x4096:bf16:bf16", 100.0, 200.0),
            line(BF16, "gemm:8192x8192x8192:bf16:bf16", 100.0, 50.0),
            line(BF16, "gemm:16x8192x8192:bf16:bf16", 100.0, 300.0),
            line(BF16, "gemm:64x24576x1536:bf16:bf16", 100.0, "out of memory"),
        ],
    )
    assert row.geomean == pytest.approx(math.cbrt(2.0 * 0.5 * 3.0))
    assert (row.worst, row.worst_problem) == (0.5, "gemm:8192x8192x8192:bf16:bf16")
    assert (row.problems, row.without, row.missing) == (3, 1, 7)
    assert (row.goal_geomean, row.goal_worst) == (1.0, 0.93)
    assert row.reached is False


def test_a_goal_may_leave_out_what_a_peer_refuses() -> None:
    shapes = ("4096x4096x4096", "4096x2112x7168", "16x8192x8192")
    square, narrow, few = (f"gemm:{shape}:deepseek-fp8:bf16" for shape in shapes)
    lines = [
        line(BLOCK, square, 100.0, 110.0, 121.0),
        line(BLOCK, narrow, 100.0, "Invalid scaling configuration.", 50.0),
        line(BLOCK, few, 100.0, 121.0, 130.0),
    ]
    agreed, every = of_row(BLOCK, lines)
    assert (agreed.problems, agreed.without, agreed.missing) == (2, 0, 8)
    assert agreed.geomean == pytest.approx(math.sqrt(1.1 * 1.21))
    assert (agreed.worst, agreed.where, agreed.reached) == (1.1, "no peer refuses", True)
    assert (every.problems, every.worst, every.reached) == (3, 0.5, False)
    # A peer that is not there refuses everything: the other one's problems count.
    alone, _ = of_row(
        BLOCK, [line(BLOCK, text, 100.0, 110.0, "not installed") for text in (square, few)]
    )
    assert (alone.problems, alone.geomean) == (2, pytest.approx(1.1))


def test_rows_without_a_measurement_stand_in_the_table() -> None:
    found = summaries([])
    assert {one.row for one in found} == set(BY_NAME)
    assert all(one.problems == 0 and one.reached is None and one.missing for one in found)
    assert "| bf16 | torch.matmul bf16 | all | 0 (+11 not begun) | - | 1.00 |" in table_text(found)


@pytest.mark.parametrize(
    ("ratios", "reached"),
    [((1.5, 1.5), (True, True)), ((1.4, 1.4), (False, True)), ((1.2, 3.0), (True, False))],
)
def test_a_goal_asks_for_mean_or_worst_of_its_own_problems(
    ratios: tuple[float, ...], reached: tuple[bool, bool]
) -> None:
    lines = [
        line(INT8, f"gemm:{shape}:int8-b128:bf16", 100.0, 100.0 * ratio)
        for shape, ratio in zip(("4096x4096x4096", "2048x3072x768"), ratios, strict=True)
    ]
    small = line(INT8, "gemm:128x7168x2048:int8-b128:bf16", 100.0, 170.0)
    above, every = of_row(INT8, [*lines, small])
    assert (above.where, above.problems, above.goal_worst) == ("M >= 2048", 2, None)
    assert (every.where, every.problems, every.goal_geomean) == ("", 3, None)
    assert (above.reached, every.reached) == reached


def test_a_time_that_is_none_reaches_nothing() -> None:
    (row,) = of_row(BF16, [line(BF16, "gemm:4096x4096x4096:bf16:bf16", math.nan, math.nan)])
    assert row.problems == 1
    assert row.reached is None


def test_the_table_is_markdown_in_its_own_order() -> None:
    text = table_text(
        [
            one
            for one in summaries(
                [
                    line(
                        BLOCK, "gemm:4096x2112x7168:deepseek-fp8:bf16", 100.0, "N % 128", "missing"
                    ),
                    line(BF16, "gemm:4096x4096x4096:bf16:bf16", 100.0, 101.0),
                    line(INT8, "gemm:4096x4096x4096:int8-b128:bf16", 100.0, 125.0),
                ]
            )
            if one.problems or one.without
        ]
    )
    assert text.splitlines()[2:] == [
        "| bf16 | torch.matmul bf16 | all | 1 (+10 not begun) | 1.01 | 1.00 "
        "| 1.01 at gemm:4096x4096x4096:bf16:bf16 | 0.93 | yes |",
        "| e4m3fn 1x128 / 128x128 | torch._scaled_mm 1x128 by 128x128 or DeepGEMM "
        "| no peer refuses | 0 (+1 without) (+10 not begun) | - | 1.02 | - | - | - |",
        "| e4m3fn 1x128 / 128x128 | torch._scaled_mm 1x128 by 128x128 or DeepGEMM | all "
        "| 0 (+1 without) (+10 not begun) | - | - | - | 0.93 | - |",
        "| int8 128x128, bf16 out | torch.matmul bf16 | M >= 2048 | 1 (+7 not begun) | 1.25 | 1.50 "
        "| 1.25 at gemm:4096x4096x4096:int8-b128:bf16 | - | no |",
        "| int8 128x128, bf16 out | torch.matmul bf16 | all | 1 (+10 not begun) | 1.25 | - "
        "| 1.25 at gemm:4096x4096x4096:int8-b128:bf16 | 1.30 | no |",
    ]


def test_a_line_tells_ratios_refusals_and_failures() -> None:
    text = line_text(
        line(BLOCK, "gemm:4096x4096x4096:deepseek-fp8:bf16", 100.0, "no such scaling", 110.0)
    )
    assert text.startswith("gemm:4096x4096x4096:deepseek-fp8:bf16 ")
    assert text.endswith(
        "100.0 us (IQR 1 %)   1374 TFLOP/s  torch._scaled_mm 1x128 by 128x128: refused, "
        "no such scaling; DeepGEMM: 1.10 (IQR 1 %)"
    )
    failed = line(BF16, "gemm:4096x4096x4096:bf16:bf16", 100.0, 110.0, wrong="C[0, 1] = 7")
    assert line_text(failed).endswith("FAILED: C[0, 1] = 7")
    bound = Bound(name=ISSUE, time_us=90.0, how="7 instructions")
    moved = line(DATAFLOW, "dataflow:8192x8192:gelu:int8.b32x32+sr", 100.0, 80.0, bounds=(bound,))
    assert line_text(moved).endswith(
        "   1347 GB/s  device copy: 0.80 (IQR 1 %); bound of the issue slots: 0.90 (7 instructions)"
    )
    lacking = Bound(name=ISSUE, refused="ncu is missing")
    moved = line(DATAFLOW, "dataflow:8192x8192:gelu:int8.b32x32+sr", 100.0, 80.0, bounds=(lacking,))
    assert line_text(moved).endswith("bound of the issue slots: ncu is missing")


def test_the_record_reads_back_and_keeps_lists_of_numbers_short() -> None:
    one = line(BF16, "gemm:4096x4096x4096:bf16:bf16", 100.0, "refused, M <= 16")
    record = {"lines": [one.to_dict()], "shape": [1, -2.5e-07, 3], "words": ["a", "b"]}
    text = record_text(record)
    assert json.loads(text)["lines"][0] == {
        "row": "bf16",
        "problem": "gemm:4096x4096x4096:bf16:bf16",
        "kernel": "hopper_gemm",
        "config": {"block_m": 128},
        "run": "runs/kernels",
        "swept_us": 100.0,
        "source_sha256": "ab",
        "ours": {**one.to_dict()["ours"], "samples_us": [99.0, 100.0, 100.0, 101.0]},
        "peers": [
            {
                "problem": "gemm:4096x4096x4096:bf16:bf16",
                "rival": "torch.matmul bf16",
                "time_us": None,
                "iqr_us": None,
                "samples_us": [],
                "timing": "",
                "refused": "refused, M <= 16",
                "sm_clock_mhz": None,
                "note": "",
            }
        ],
        "bounds": [],
        "accuracy": None,
        "wrong": "",
        "session": 0,
        "ratios": {"torch.matmul bf16": None},
    }
    assert Line.from_dict(json.loads(text)["lines"][0]) == one
    assert '"samples_us": [99.0, 100.0, 100.0, 101.0]' in text
    assert '"shape": [1, -2.5e-07, 3]' in text
    assert json.loads(text)["words"] == ["a", "b"]
    assert json.loads(record_text({"us": [math.nan, 1.5]})) == {"us": [None, 1.5]}


def test_the_page_holds_the_table_of_the_record() -> None:
    root = Path(__file__).parents[2]
    stored = json.loads((root / "evidence/h200/kernels.json").read_text(encoding="utf-8"))
    lines = [Line.from_dict(line) for line in stored["lines"]]
    page = (root / "docs/kernels.md").read_text(encoding="utf-8")
    assert table_text(summaries(lines)) in page


def test_every_family_has_a_section_with_bound_times_and_what_was_tried() -> None:
    page = (Path(__file__).parents[2] / "docs/kernels.md").read_text(encoding="utf-8")
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    about = {line: text for text in sections for line in [text.partition("\n")[0]] if "`" in line}
    named = [name for line in about for name in re.findall(r"`(\w+)`", line)]
    assert sorted(named) == sorted(kernels())
    for line, text in about.items():
        for words in ("Binds", "Measured|Reached", "Tried|Considered"):
            assert re.search(rf"\*\*({words})", text), f"{line}: no {words}"
