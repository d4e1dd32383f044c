"""Measured tables from runs, and data sets found on disk."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sweep_runs import make_plan, sweep

from sim.evaluation.splits import Split, group
from sim.measured_file import MEASUREMENTS_FILE, read_measured, write_measured
from tiles.kernels import Status
from tuning import Environment, Measurement, Run, Strategy, StudyRecord, TrialRecord, load_run
from tuning.conditions import Conditions
from tuning.data_sets import load_data_sets
from tuning.measured_runs import IN_VIEW_FILE, measured_run

DATA = Path(__file__).parents[2] / "data" / "h200"
FIRST_LOOK = DATA / "first_look"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exhaustive") / "run"
    return sweep(make_plan(folder, strategy=Strategy.EXHAUSTIVE, studies=2))


def measured(run: Run, *, cache: str = "cold") -> Run:
    """As if it had been measured: every fifth failed, one is stale."""

    def trial(index: int, one: TrialRecord) -> TrialRecord:
        if index % 5 == 0:
            failed = Measurement(status=Status.RUNTIME, simulated=False, reason="so it was")
            return replace(one, measurement=failed)
        correct = Measurement(
            status=Status.CORRECT,
            simulated=False,
            time_us=100.0 + index,
            samples_us=(99.0, 100.0, 101.0, 104.0),
            conditions=Conditions(source="nvml", sm_clock_mhz=(1900, 1980, 1700), power_w=())
            if index % 2
            else None,
        )
        return replace(one, measurement=correct, stale="driver changed" if index == 1 else "")

    def study(one: StudyRecord) -> StudyRecord:
        trials = tuple(trial(index, t) for index, t in enumerate(one.trials))
        environment = Environment(
            gpu="NVIDIA X", driver="580.1", sm_clock_mhz=None, versions={"torch": "2.11"}
        )
        return replace(one, simulated=False, trials=trials, source="ab", environment=environment)

    plan = {**run.plan, "cache": cache}
    return replace(run, plan=plan, studies=tuple(study(one) for one in run.studies))


def test_a_run_becomes_tables_and_tells_what_is_left_out(simulated: Run) -> None:
    run = measured(simulated)
    found = measured_run(run)
    assert len(found.tables) == len(found.left_out) == 2
    study, table = run.studies[0], found.tables[0]
    failed = sum(one.measurement.status is Status.RUNTIME for one in study.trials)
    assert found.left_out[0].endswith(f": {failed} runtime, 1 stale")
    assert len(table) == len(study.trials) - failed - 1
    times = {one.config: one.measurement.time_us for one in study.trials}
    assert [times[config] for config in table.table] == table.time_us.tolist()
    assert set(table.iqr_us) == {4.0}  # of four samples the fourth less the second
    assert table.whole_space  # failures were tried as well
    assert (table.gpu, table.cold, table.in_view, table.source) == (study.gpu, True, False, "ab")
    assert table.environment == {"device": "NVIDIA X", "driver": "580.1", "torch": "2.11"}
    assert table.power_w is None
    assert table.clock_mhz is not None
    assert set(table.clock_mhz[np.isfinite(table.clock_mhz)]) == {1900.0}
    assert np.isnan(table.clock_mhz).any()


def test_rows_do_not_keep_the_order_of_measuring(simulated: Run) -> None:
    run = measured(simulated)
    study = replace(run.studies[0], trials=run.studies[0].trials[::-1])
    (table,) = measured_run(replace(run, studies=(study,))).tables
    configs = [tuple(config.to_dict().values()) for config in table.table]
    assert configs == sorted(configs)


def test_a_part_of_a_space_is_no_whole_one(simulated: Run) -> None:
    run = measured(simulated)
    study = replace(run.studies[0], trials=run.studies[0].trials[2:])
    (table,) = measured_run(replace(run, studies=(study,))).tables
    assert not table.whole_space


def test_warm_times_are_called_so(simulated: Run) -> None:
    assert not measured_run(measured(simulated, cache="warm")).tables[0].cold


def test_simulated_and_empty_runs_are_refused(simulated: Run) -> None:
    with pytest.raises(ValueError, match="is a simulated sweep, its times are the cost model's"):
        measured_run(simulated)
    run = measured(simulated)
    with pytest.raises(ValueError, match="holds no correct measurement"):
        measured_run(replace(run, studies=tuple(replace(s, trials=()) for s in run.studies)))
    with pytest.raises(ValueError, match="is a simulated sweep"):
        load_data_sets([simulated.folder])


def test_stored_runs_survive_the_file_of_tables(tmp_path: Path) -> None:
    found = measured_run(load_run(DATA / "replay" / "hopper_gemm"))
    assert found.left_out == ()
    write_measured(tmp_path / "set.parquet", found.tables)
    back = read_measured(tmp_path / "set.parquet")
    assert sum(map(len, back)) == 950
    for one, other in zip(found.tables, back, strict=True):
        assert one.whole_space
        assert other.time_us.tolist() == one.time_us.tolist()
        assert other.facts == one.facts
        assert list(other.table) == list(one.table)


def test_sets_are_found_below_a_folder_once(tmp_path: Path) -> None:
    for name in ("b", "a/deeper"):
        shutil.copytree(FIRST_LOOK, tmp_path / name)
    (tmp_path / ".hidden").mkdir()
    shutil.copytree(FIRST_LOOK, tmp_path / ".hidden" / "set")
    found = load_data_sets([tmp_path, tmp_path / "b", tmp_path / "b" / MEASUREMENTS_FILE])
    names = [one.path.relative_to(tmp_path).as_posix() for one in found]
    assert names == ["a/deeper", "b", f"b/{MEASUREMENTS_FILE}"]
    assert len(load_data_sets([tmp_path / "b", tmp_path / "b"])) == 1


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder: name data sets with --data"):
        load_data_sets([tmp_path / "none"])
    with pytest.raises(ValueError, match="no data set there: name a run folder, or one with meas"):
        load_data_sets([tmp_path])


def test_sets_of_two_gpus_are_told_apart(tmp_path: Path) -> None:
    tables = [replace(one, gpu="a100") for one in read_measured(FIRST_LOOK / MEASUREMENTS_FILE)]
    write_measured(tmp_path / "other" / MEASUREMENTS_FILE, tables)
    with pytest.raises(ValueError, match=r"was measured on a100, .*first_look on h200: give sets"):
        load_data_sets([FIRST_LOOK, tmp_path])


def test_a_run_marks_the_shapes_that_constants_were_set_on(simulated: Run, tmp_path: Path) -> None:
    run = replace(measured(simulated), folder=tmp_path)
    shapes = [group(one, Split.SHAPE) for one in measured_run(run).tables]
    assert len(set(shapes)) == 2
    (tmp_path / IN_VIEW_FILE).write_text(f"# as its card says\n\n{shapes[1]}\n")
    assert [one.in_view for one in measured_run(run).tables] == [False, True]
    part = replace(run, studies=run.studies[:1])  # a sweep that has not come to the other yet
    assert [one.in_view for one in measured_run(part).tables] == [False]
    (tmp_path / IN_VIEW_FILE).write_text("gemm 1x2x3\n")
    with pytest.raises(ValueError, match=r"'gemm 1x2x3' is no shape of the run: write one of"):
        measured_run(run)
    (tmp_path / IN_VIEW_FILE).write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        measured_run(run)


@pytest.mark.parametrize("folder", ["hopper_gemm", "triton_gemm"])
def test_nobody_is_judged_by_a_shape_that_constants_were_set_on(folder: str) -> None:
    """What the guide to the cost model names as set on is what the replay marks."""
    found = measured_run(load_run(DATA / "replay" / folder)).tables
    seen = {one.problem.shape for one in found if one.in_view}
    assert seen == {(4096, 4096, 4096), (128, 7168, 2048)}
    assert {one.problem.shape for one in found} - seen == {(4096, 2112, 7168), (2048, 3072, 768)}
