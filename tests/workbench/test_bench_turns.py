"""What the timing scripts share, as far as it goes without a GPU."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.turns import find_gpu, geomean_worst, ranked, tried, write_record
from sim import price
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

PROBLEM = parse_problem("transpose:4096x4096:int8")


def test_geometric_mean_and_worst() -> None:
    mean, worst = geomean_worst([0.5, 2.0, 8.0])
    assert math.isclose(mean, 2.0)
    assert worst == 0.5


def test_what_is_timed_is_what_the_model_ranks_first() -> None:
    family, gpu = kernel("triton_transpose"), find_gpu("cpu")
    assert gpu.name == "h200"
    best = ranked(PROBLEM, family, gpu, 5)
    times = price(PROBLEM, family, ConfigTable.of(best), gpu).time_us.tolist()
    legal = family.legal_space(PROBLEM, gpu.limits).accepted
    every = sorted(price(PROBLEM, family, legal, gpu).time_us.tolist())
    assert times == every[:5]


def test_a_wrong_answer_ends_the_search_before_it_is_timed() -> None:
    workload: Any = SimpleNamespace(
        problem=PROBLEM, check=lambda config: SimpleNamespace(ok=False, reason="out[0, 0] = 1")
    )
    config = kernel("triton_transpose").default(PROBLEM, find_gpu("cpu").limits)
    with pytest.raises(SystemExit, match=r"transpose:4096x4096:int8 .*out\[0, 0\] = 1"):
        tried(workload, [config])


def test_a_record_holds_rows_and_what_they_share(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, "tile-workbench/some-bench/1", [{"time_us": 1.5}], gpu="h200")
    assert json.loads(path.read_text()) == {
        "schema": "tile-workbench/some-bench/1",
        "gpu": "h200",
        "rows": [{"time_us": 1.5}],
    }
    write_record(None, "tile-workbench/some-bench/1", [])
