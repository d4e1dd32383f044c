"""Times over a range of M: told where a trial told them, the scaled model's everywhere else."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sim
from sim import load_gpu
from sim.measured_file import read_measured
from tiles.kernels import ConfigTable, Status, TileConfig, kernel
from tiles.kernels.gemm import GemmConfig
from tiles.problems import Gemm, Problem, parse_problem
from tuning import Measurement, StudyRecord, TrialRecord
from tuning.row_times import row_times

GPU = load_gpu("h200")
FAMILY = "triton_gemm"
SWEEPS = Path(__file__).parents[2] / "data" / "h200" / "sweeps" / "measurements.parquet"
SMALL = GemmConfig(
    block_m=16,
    block_n=64,
    block_k=128,
    group_m=1,
    num_warps=4,
    num_stages=4,
    tma=False,
    persistent=False,
)
LARGE = replace(SMALL, block_m=128, block_n=128, block_k=64, group_m=8, num_warps=8, num_stages=3)


def _problem(m: int) -> Problem:
    return parse_problem(f"gemm:{m}x4096x4096:bf16:bf16")


def _model(config: TileConfig, m: int) -> float:
    family = kernel(FAMILY)
    return float(sim.price(_problem(m), family, ConfigTable.of([config]), GPU).time_us[0])


def _study(
    m: int, times: Mapping[TileConfig, float | None], *, simulated: bool = False
) -> StudyRecord:
    trials = tuple(
        TrialRecord(
            config=config,
            measurement=Measurement(
                status=Status.CORRECTNESS if time is None else Status.CORRECT,
                simulated=simulated,
                time_us=time,
            ),
            predicted_us=1.0,
            predicted_low_us=0.5,
            predicted_high_us=2.0,
        )
        for config, time in times.items()
    )
    return StudyRecord(
        problem=_problem(m),
        kernel=FAMILY,
        gpu="h200",
        path="native",
        simulated=simulated,
        environment=None,
        space_size=2,
        legal_size=2,
        rejected_by_rule={},
        stopped="done",
        not_compared="",
        trials=trials,
    )


def test_told_times_stay_in_a_column_of_their_own() -> None:
    found = row_times([_study(16, {SMALL: 9.0}), _study(256, {LARGE: 30.0, SMALL: None})], GPU)
    assert found.tuned == (16, 256)
    assert found.candidates == ((FAMILY, SMALL), (FAMILY, LARGE))
    assert (found.rows[0], found.rows[-1]) == (16, 256)
    assert len(found.rows) == 4 * 8 + 1  # four octaves of eight
    at = {m: found.rows.index(m) for m in found.tuned}
    assert found.told_us[0, at[16]] == 9.0
    assert found.told_us[1, at[256]] == 30.0
    assert found.told_us[0, at[256]] == np.inf  # a wrong answer is no time
    assert np.isnan(np.delete(found.told_us, list(at.values()), axis=1)).all()
    assert np.isnan(found.told_us[1, at[16]])
    assert np.isfinite(found.modelled_us).all()
    assert found.correct.sum() == 2
    assert not found.simulated


def test_the_model_is_scaled_by_what_it_was_off_for_the_same_configuration() -> None:
    twice = {m: 2 * _model(SMALL, m) for m in (16, 256)}
    found = row_times([_study(m, {SMALL: time}) for m, time in twice.items()], GPU)
    expected = [2 * _model(SMALL, m) for m in found.rows]
    assert found.times_us[0] == pytest.approx(expected, rel=1e-12)
    # Off by 2 at one end and by 8 at the other: by 4 in the middle of the logarithms.
    ends = [_study(16, {SMALL: twice[16]}), _study(256, {SMALL: 4 * twice[256]})]
    found = row_times(ends, GPU)
    middle = found.rows.index(64)
    assert found.times_us[0, middle] == pytest.approx(4 * _model(SMALL, 64), rel=1e-12)


def test_at_a_tuned_m_nothing_untried_beats_the_winner() -> None:
    # By the model the small tile would be far faster at 256 than what won there.
    tried = [_study(16, {SMALL: _model(SMALL, 16)}), _study(256, {LARGE: 500.0})]
    found = row_times(tried, GPU)
    at = found.rows.index(256)
    assert found.modelled_us[0, at] < 500.0
    assert found.times_us[:, at].tolist() == [500.0, 500.0]


def test_what_was_outpaced_is_no_faster_than_the_winner() -> None:
    one = _study(256, {SMALL: 104.0, LARGE: 110.0})
    lost, won = one.trials  # alone 104 and 100; in turns the GPU is a tenth slower
    found = row_times([replace(one, trials=(replace(lost, outpaced=1.1), won))], GPU)
    assert found.told_us[:, 0].tolist() == [pytest.approx(114.4), 110.0]


def test_rows_that_a_family_does_not_serve_take_for_ever() -> None:
    skinny, wide = "hopper_weight_only", "triton_weight_only"
    problems = [parse_problem(f"gemm:{m}x4096x4096:w4a16-g128:bf16") for m in (16, 1024)]
    studies = [
        replace(
            _study(16, {kernel(name).default(problem, GPU.limits): time}),
            problem=problem,
            kernel=name,
        )
        for problem, name, time in zip(problems, (skinny, wide), (9.0, 90.0), strict=True)
    ]
    found = row_times(studies, GPU)
    served = [m for m, time in zip(found.rows, found.times_us[0], strict=True) if time < np.inf]
    assert served == [m for m in found.rows if m <= 256]
    assert np.isfinite(found.times_us[1]).all()


def test_one_tuned_m_is_a_range_of_one() -> None:
    found = row_times([_study(16, {SMALL: 9.0}), _study(64, {SMALL: None})], GPU)
    assert found.rows == found.tuned == (16,)


@pytest.mark.slow
def test_interpolated_times_of_an_m_left_out_are_near_the_measured_ones() -> None:
    """The few configurations of the H200's sweeps that were measured at three M or more."""
    measured: dict[tuple[str, Problem, TileConfig], dict[int, float]] = {}
    for table in read_measured(SWEEPS):
        if isinstance(table.problem, Gemm) and table.cold:
            alike = table.problem.resized(1, *table.problem.shape[1:])
            for row, time in enumerate(table.time_us):
                key = (table.kernel.name, alike, table.table.config(row))
                measured.setdefault(key, {})[table.problem.tokens] = float(time)
    errors = []
    for (name, alike, config), times in measured.items():
        for left_out in sorted(times)[1:-1]:
            studies = [
                replace(
                    _study(m, {config: time}),
                    kernel=name,
                    problem=alike.resized(m, *alike.shape[1:]),
                )
                for m, time in times.items()
                if m != left_out
            ]
            found = row_times(studies, GPU)
            told = found.times_us[0, found.rows.index(left_out)]
            errors.append(abs(told / times[left_out] - 1))
    assert len(errors) == 9
    assert np.median(errors) < 0.08
    assert max(errors) < 0.25
