"""The whole calibration against a simulated machine: design, timings, fit, limits, resuming."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibrate_fixture import GPU, legal_table_of, small_design, stratified

import sim
from sim.calibration.file import parse_calibration
from tiles.kernels import Status, kernel
from tiles.problems import parse_problem
from tuning.calibration import run as calibrate_run
from tuning.calibration.alone import LOCK, alone_in
from tuning.calibration.design import PER_STUDY, Stratum, design
from tuning.calibration.run import MEANING, USUAL_MEANING, Calibrated, Step, calibrate
from tuning.calibration.simulated import FIGURES
from tuning.microbench.run import RECORD
from tuning.plan import Plan
from tuning.records import Run
from tuning.strategies import History
from tuning.strategies.stratified import BINS


@pytest.mark.parametrize("seed", [0, 7])
def test_a_design_reaches_every_family_and_regime(seed: int) -> None:
    studies = design(GPU, 96, seed)
    assert len(studies) == 96 // PER_STUDY
    assert len(set(studies)) == len(studies)
    strata = [Stratum.of(one.problem, one.kernel) for one in studies]
    families = Counter(one.family for one in strata)
    assert min(families[name] for name in ("triton_gemm", "hopper_gemm")) >= 5
    assert {"hopper_skinny_gemm", "hopper_block_gemm", "triton_weight_only"} <= set(families)
    for axis, regimes in (
        ("rows", {"decode", "middle", "prefill", "large"}),
        ("depth", {"shallow", "usual", "deep"}),
    ):
        counts = Counter(getattr(one, axis) for one in strata)
        assert set(counts) == regimes
        assert min(counts.values()) >= 4
    assert max(one.problem.shape[0] for one in studies) >= 8192
    assert len({one.fmt for one in strata}) >= 9


def test_a_design_is_its_seeds_and_other_gpus_have_one() -> None:
    assert design(GPU, 24, 1) == design(GPU, 24, 1) != design(GPU, 24, 2)
    assert design(GPU, 24, 1) == design(GPU, 30, 1)[:8]  # more timings go on from fewer
    for name in ("mi300x",):
        assert {one.kernel for one in design(sim.load_gpu(name), 24, 0)} >= {"triton_gemm"}


def test_stratified_rows_come_from_all_over_the_ranking_and_are_unlike() -> None:
    problem = parse_problem("gemm:2048x4096x4096:e4m3-row:bf16")
    legal = legal_table_of(problem, kernel("triton_gemm"))
    strategy = stratified(legal, seed=3, budget=8)
    rows = strategy.search(History(len(legal)), 8)
    assert strategy.openers == rows  # compilers work ahead on all of them
    assert len(set(rows)) == 8
    place = np.empty(len(legal))
    place[legal.ranking] = np.arange(len(legal)) / len(legal)
    bins = Counter(int(np.searchsorted(BINS, place[row], side="right")) - 1 for row in rows)
    assert bins == {0: 2, 1: 2, 2: 2, 3: 2}
    apart = ((legal.points[rows][:, None] - legal.points[rows][None]) ** 2).sum(axis=2)
    assert apart[~np.eye(8, dtype=bool)].min() >= 2.0


def rehearse(
    folder: Path,
    progress: Callable[[Step], None] = lambda _: None,
    *,
    whole: bool = False,
    **changes: object,
) -> Calibrated:
    """Of the small design, which no other test gets to see, or of the whole one."""
    options = {"simulate": True, "timings": 18, "seed": 0, "time_limit_s": 400.0, **changes}
    with pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setattr(calibrate_run, "design", small_design)
        return calibrate(GPU, folder, progress=progress, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rehearsal:
    folder: Path
    done: Calibrated
    steps: list[Step]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    folder = tmp_path_factory.mktemp("calibrate") / "run"
    steps: list[Step] = []
    return Rehearsal(folder, rehearse(folder, steps.append), steps)


def test_a_simulated_machine_is_found_again_and_its_file_read(
    rehearsal: Rehearsal, tmp_path: Path
) -> None:
    done = rehearsal.done
    assert (done.planned, done.measured, done.failed, done.left_out) == (18, 18, {}, ())
    assert all(one.status is Status.CORRECT for one in done.outcomes)
    found = done.learned.calibration.gpu
    for name, factor in FIGURES.items():
        # The timings may draw a figure by as much as a microbenchmark's is held to mean, no more.
        drawn = math.log(getattr(found, name) / (factor * getattr(GPU, name)))
        assert abs(drawn) < MEANING.get(name, USUAL_MEANING), name
        assert abs(drawn) < abs(math.log(factor)), f"{name} is no nearer than the GPU file's"
    assert [s.stage for s in rehearsal.steps].count("timings") == 18
    path = tmp_path / "c.json"
    path.write_text(done.text)
    read = parse_calibration(path, GPU)
    assert read.title.startswith("SIMULATED machine, ")
    assert read.notes == ("of a simulated machine, for rehearsals: its predictions mean nothing",)
    assert read.families.keys() == done.learned.calibration.families.keys()


def test_the_same_call_goes_on_and_measures_nothing_twice(rehearsal: Rehearsal) -> None:
    steps: list[Step] = []
    again = rehearse(rehearsal.folder, steps.append)
    assert [s.stage for s in steps].count("timings") == 0
    figures = rehearsal.done.learned.calibration.figures
    assert again.learned.calibration.figures == figures


def test_a_folder_of_another_calibration_is_refused_before_anything_is_measured(
    rehearsal: Rehearsal,
) -> None:
    """Microbenchmarks took their minutes first, and the place of those in the folder."""
    record = rehearsal.folder / RECORD
    before, steps = record.read_bytes(), list[Step]()
    refused = r"holds another sweep \(seed differs\): choose another folder or delete it"
    with pytest.raises(ValueError, match=refused):
        rehearse(rehearsal.folder, steps.append, seed=5)
    assert (steps, record.read_bytes()) == ([], before)
    with pytest.raises(ValueError, match=r"\(studies differs\)"):
        rehearse(rehearsal.folder, whole=True)


def test_a_folder_that_another_calibration_works_in_is_refused(tmp_path: Path) -> None:
    """Two wrote one temporary file, and one of them died of "No such file or directory"."""
    with alone_in(tmp_path), pytest.raises(ValueError, match="another calibration is at work"):
        rehearse(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [LOCK]
    with alone_in(tmp_path):  # the lock went with its holder
        pass


def test_what_there_was_no_time_for_is_named(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = calibrate_run.run_sweep

    def two_studies(plan: Plan, *rest: object, **options: object) -> Run:
        run = real(plan, *rest, **options)  # type: ignore[arg-type]
        return replace(run, studies=run.studies[:2])

    monkeypatch.setattr(calibrate_run, "run_sweep", two_studies)
    done = rehearse(rehearsal.folder)
    assert done.measured == 2 * PER_STUDY
    assert len(done.left_out) == 4
    assert all(line.endswith(" hopper_gemm") for line in done.left_out)


@pytest.mark.slow
def test_the_whole_design_is_rehearsed(tmp_path: Path) -> None:
    done = rehearse(tmp_path, whole=True, timings=48)
    assert (done.planned, done.measured, done.left_out) == (48, 48, ())
    families = done.learned.calibration.families
    assert len(families) >= 7
    # Noise of 2 %: the machine is found through every family.
    assert np.mean([one.physics_error for one in families.values()]) < 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timings": 3}, "timings = 3: take 16 to 1024"),
        ({"seed": -1, "whole": True}, r"seed = -1: must lie in 0\.\.2\^32-1"),
        ({"time_limit_s": 60.0}, "a time limit of 60 s: the fit alone needs 60: give more than"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rehearse(tmp_path, **change)
    assert list(tmp_path.iterdir()) == []
