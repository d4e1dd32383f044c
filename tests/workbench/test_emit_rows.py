"""Emitted M keys: as few as lookup needs, their losses told apart by where times come from."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emit_runs import run_of, study

from sim import load_gpu
from tiles.kernels import TileConfig
from tiles.kernels.gemm import GemmConfig
from tuning import StudyRecord
from tuning.row_keys import Lookup, served_by
from tuning.row_times import row_times
from workbench.emission import emit
from workbench.emission.kept_rows import Loss
from workbench.emission.package_files._lookup import choose_from, parse_config_file
from workbench.emission.selection import select

DECODE = GemmConfig(
    block_m=16,
    block_n=64,
    block_k=128,
    group_m=1,
    num_warps=4,
    num_stages=4,
    tma=False,
    persistent=False,
)
PREFILL = replace(DECODE, block_m=64, block_n=128, group_m=8)


def _tuned(
    m: int, times: Mapping[TileConfig, float], *, simulated: bool = False, out: str = "bf16"
) -> StudyRecord:
    """A study of several configurations."""
    problem = f"gemm:{m}x4096x4096:bf16:{out}"
    trials = tuple(
        study(problem, simulated=simulated, config=config, time_us=time).trials[0]
        for config, time in times.items()
    )
    return replace(study(problem, simulated=simulated), trials=trials)


def _run(*, simulated: bool = False) -> tuple[StudyRecord, ...]:
    """Three M where the small tile wins, each by another runner-up, and one for the large tile."""
    return (
        _tuned(16, {DECODE: 20.0, PREFILL: 30.0}, simulated=simulated),
        _tuned(32, {DECODE: 20.5, PREFILL: 30.0}, simulated=simulated),
        _tuned(64, {DECODE: 21.0, PREFILL: 21.2}, simulated=simulated),
        _tuned(1024, {DECODE: 240.0, PREFILL: 150.0}, simulated=simulated),
    )


def test_without_the_option_every_tuned_m_is_a_key(tmp_path: Path) -> None:
    package = emit(run_of(*_run()), tmp_path / "out", name="tile_pack")
    assert package.entries == 4
    assert package.rows == ()
    assert "rows" not in json.loads(package.evidence.read_text())


def test_as_few_keys_as_the_loss_needs(tmp_path: Path) -> None:
    package = emit(run_of(*_run()), tmp_path / "out", name="tile_pack", rows_loss=0.02)
    evidence = json.loads(package.evidence.read_text())
    (rows,) = evidence["rows"]
    assert package.entries == len(rows["keys"]) == 2 < len(rows["tuned"]) == 4
    assert [entry["key"] for entry in evidence["entries"]] == rows["keys"]
    assert (rows["first_m"], rows["last_m"], rows["lookup"]) == (16, 1024, "log")
    # Losses between tuned M are the model's; they stand apart from the measured ones.
    assert rows["measured"]["rows"] == 4
    assert rows["interpolated"]["rows"] > 4
    assert rows["predicted"] is None
    assert max(rows["measured"]["loss"], rows["interpolated"]["loss"]) <= 0.02
    assert package.rows == (str(select(run_of(*_run()), rows_loss=0.02).rows[0]),)
    assert "(measured)" in package.rows[0]
    assert "(interpolated)" in package.rows[0]
    dropped = {one["problem"]: one["reason"] for one in evidence["not_emitted"]}
    assert len(dropped) == 4 - package.entries
    for reason in dropped.values():
        assert reason.startswith(
            ("M 16 takes the entry of triton_gemm", "M 32 takes", "M 64 takes")
        )


def test_measured_and_interpolated_losses_stand_apart() -> None:
    # The large tile alone: it takes half as long again at 16, where it was measured.
    (rows,) = select(run_of(*_run()), rows_loss=0.6).rows
    assert len(rows.keys) == 1
    assert rows.measured == Loss(loss=pytest.approx(0.5), m=16, rows=4)
    assert rows.interpolated is not None
    assert rows.interpolated.m not in rows.tuned
    assert 0 < rows.interpolated.loss < 0.5
    assert rows.interpolated.rows == rows.rows - 4


@pytest.mark.slow
def test_looked_up_at_every_tuned_m_the_package_loses_no_more(tmp_path: Path) -> None:
    package = emit(run_of(*_run()), tmp_path / "out", name="tile_pack", rows_loss=0.02)
    configs = (package.folder / "src/tile_pack/configs").glob("*.json")
    files = tuple(parse_config_file(path.read_text()) for path in sorted(configs))
    for one in _run():
        m = one.problem.tokens
        choice = choose_from(files, "triton_gemm", ("bf16", "bf16"), (4096, 4096), m, "NVIDIA H200")
        times = {trial.config: trial.measurement.time_us for trial in one.trials}
        assert times[GemmConfig(**choice.config)] <= 1.02 * min(times.values())


def test_an_entry_was_correct_at_an_m_whose_calls_take_it() -> None:
    chosen = select(run_of(*_run()), rows_loss=0.02)
    keys = [entry.key for entry in chosen.entries]
    assert keys == sorted(keys)
    for entry in chosen.entries:
        assert entry.best in entry.study.trials
        assert entry.best.measurement.time_us is not None
        assert served_by(entry.problem.tokens, keys, Lookup.LOG) == entry.key == entry.m


def test_a_simulated_run_has_predicted_losses_alone() -> None:
    (rows,) = select(run_of(*_run(simulated=True)), rows_loss=0.1).rows
    assert str(rows).startswith("bf16 bf16 4096x4096: ")
    assert rows.measured is None
    assert rows.interpolated is None
    assert rows.predicted is not None
    assert rows.predicted.loss <= 0.1
    assert "(predicted)" in str(rows)


def test_what_was_simulated_beside_measured_m_is_left_with_that_reason() -> None:
    """Below, within and beyond the M that were measured."""
    more = [_tuned(m, {DECODE: 1.0, PREFILL: 2.0}, simulated=True) for m in (1, 48, 4096)]
    chosen = select(run_of(*_run(), *more), rows_loss=0.02)
    (rows,) = chosen.rows
    assert (rows.first_m, rows.last_m, rows.predicted) == (16, 1024, None)
    assert not any(entry.simulated for entry in chosen.entries)
    told = {one.problem: one.reason for one in chosen.left}
    said = "simulated where other M were measured, and the two are not compared: M "
    first, last = rows.keys[0], rows.keys[-1]
    assert told[str(more[0].problem)] == f"{said}1 takes the entry of triton_gemm under M {first}"
    assert told[str(more[1].problem)].startswith(f"{said}48 takes")
    assert told[str(more[2].problem)] == f"{said}4096 takes the entry of triton_gemm under M {last}"


@pytest.mark.parametrize(
    ("layout", "family"),
    [
        ("gathered.2", "triton_grouped_gemm"),  # rows of whole tokens alone
        ("masked.2048", "hopper_grouped_gemm"),
        ("padded.128", "hopper_grouped_gemm"),
    ],
)
def test_rows_of_a_mixture_are_its_tokens_and_not_its_experts(layout: str, family: str) -> None:
    problems = [f"grouped_gemm:4x{m}x512x1024:deepseek-fp8:{layout}:bf16" for m in (64, 256, 2048)]
    made = [study(text, family=family, time_us=30.0 + place) for place, text in enumerate(problems)]
    (rows,) = select(run_of(*made), rows_loss=3.0).rows
    assert rows.extents[0] == 4
    assert (rows.first_m, rows.last_m) == (64, 2048)
    times = row_times(made, load_gpu("h200"))
    assert np.isfinite(times.modelled_us).all()
    # More rows take longer by the model, scaled to the trials of one configuration or not.
    at = [times.rows.index(m) for m in (64, 2048)]
    assert (times.modelled_us[:, at[0]] < times.modelled_us[:, at[1]]).all()
    assert all(m % 2 == 0 for m in times.rows) or not layout.startswith("gathered")


def test_formats_and_extents_are_chosen_apart() -> None:
    other = (_tuned(16, {DECODE: 9.0}, out="fp16"), _tuned(32, {DECODE: 9.1}, out="fp16"))
    chosen = select(run_of(*_run(), *other), rows_loss=0.05)
    assert [rows.formats for rows in chosen.rows] == [("bf16", "bf16"), ("bf16", "fp16")]
    kept = [entry for entry in chosen.entries if entry.formats == ("bf16", "fp16")]
    assert len(kept) == 1


def test_a_loss_that_the_tuned_m_cannot_keep_says_what_can_be_had(tmp_path: Path) -> None:
    # By the model the middle tile is best between the two, but it was right at 16 alone.
    tall = replace(PREFILL, block_m=128, block_n=256, num_warps=8, num_stages=3)
    ends = (_tuned(16, {DECODE: 20.0, PREFILL: 21.0}), _tuned(4096, {tall: 500.0}))
    with pytest.raises(
        ValueError, match=r"bf16 bf16 4096x4096: no keys keep .* is the least: tune that M too"
    ):
        emit(run_of(*ends), tmp_path / "out", rows_loss=0.0)
    assert list(tmp_path.iterdir()) == []
