"""Times with a warm L2 stand in data sets, and judge nobody who predicts a cold one."""

from dataclasses import replace
from pathlib import Path

import pytest

from sim.evaluation import Split
from sim.evaluation.baselines.own import CostModelAsItIs
from sim.measured import MeasuredTable
from sim.measured_file import read_measured, write_measured
from workbench.evaluation import evaluate
from workbench.evaluation_report import Evaluation

STORED = Path(__file__).parents[2] / "data" / "h200" / "first_look" / "measurements.parquet"


@pytest.fixture(scope="module")
def cold() -> list[MeasuredTable]:
    return [replace(one, in_view=False) for one in read_measured(STORED)[:2]]


def judged(folder: Path, tables: list[MeasuredTable]) -> Evaluation:
    write_measured(folder / "measurements.parquet", tables)
    return evaluate(
        [folder], splits=[Split.ROWS.value], predictors=[CostModelAsItIs()], search=False
    )


def test_warm_times_change_no_score(cold: list[MeasuredTable], tmp_path: Path) -> None:
    warm = [replace(one, cold=False, time_us=one.time_us / 3) for one in cold]
    alone = judged(tmp_path / "cold", cold).to_dict()
    both = judged(tmp_path / "both", [*cold, *warm]).to_dict()
    assert both["scores"] == alone["scores"]
    (found,) = both["sets"]
    assert found["rows"] == 2 * found["judged"]


def test_a_set_of_warm_times_alone_is_refused(cold: list[MeasuredTable], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all times are of a warm L2"):
        judged(tmp_path, [replace(one, cold=False) for one in cold])
