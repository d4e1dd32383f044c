"""What the engine itself costs: ask, send, answer, tell, store, with a kernel of a millisecond."""

import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "tuning"))

import test_hostile_sweep


def test_measured_configurations_a_second(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    rate = benchmark.pedantic(test_hostile_sweep.rate, args=(tmp_path / "run",), rounds=1)
    benchmark.extra_info["configurations per second"] = round(rate, 1)
    assert rate > 0
