"""T4 files: by the published schema, and back without a loss."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import pytest
from sweep_runs import MANY, make_plan, sweep

import tuning
from tiles.kernels import Accuracy, Status
from tuning import Environment, Run, Strategy
from tuning.neighbours import winner
from tuning.records import Measurement
from tuning.run_storage import RunStorage
from tuning.staleness import staleness
from tuning.t4 import study_to_t4, t4_text
from tuning.t4_import import import_t4
from tuning.t4_schema import check_t4

ENVIRONMENT = Environment(
    gpu="fake", driver="580", sm_clock_mhz=1600, versions={"torch": "2.11.0", "triton": "3.6.0"}
)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sweep(make_plan(tmp_path_factory.mktemp("simulated") / "run", studies=2))


def measured(run: Run) -> Run:
    """As if it had been measured, with every way to end."""
    statuses = list(Status)

    def outcome(index: int) -> Measurement:
        status = statuses[index % 6]
        if status is not Status.CORRECT:
            accuracy = None
            if status is Status.CORRECTNESS:
                accuracy = Accuracy(ok=False, max_error_over_bound=math.inf, relative_rms=0.5)
            return Measurement(status=status, simulated=False, reason="NaN", accuracy=accuracy)
        return Measurement(
            status=status,
            simulated=False,
            time_us=1 / 3 + index,
            samples_us=(0.1 + index, 1 / 3 + index, 7.7),
            timing="events-cold",
            accuracy=Accuracy(ok=True, max_error_over_bound=0.1, relative_rms=1e-3),
        )

    studies = tuple(
        replace(
            one,
            simulated=False,
            environment=ENVIRONMENT,
            stopped="done",
            not_compared="it died",
            trials=tuple(
                replace(trial, measurement=outcome(index)) for index, trial in enumerate(one.trials)
            ),
        )
        for one in run.studies
    )
    return replace(run, plan={**run.plan, "simulate": False}, studies=studies)


def write(run: Run, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, study in enumerate(run.studies):
        paths.append(folder / f"{index}.json")
        paths[-1].write_text(t4_text(study_to_t4(run, study)))
    return paths


@pytest.mark.parametrize("make", [lambda run: run, measured], ids=["simulated", "measured"])
def test_what_was_written_reads_back_as_it_was(
    simulated: Run, tmp_path: Path, make: Callable[[Run], Run]
) -> None:
    run = make(simulated)
    paths = write(run, tmp_path / "t4")
    done = import_t4(paths, tmp_path / "run")
    back = tuning.load_run(tmp_path / "run")
    assert (back.plan, back.gpu, back.studies) == (run.plan, run.gpu, run.studies)
    assert (done.trials, done.left_out) == (24, ())
    again = write(back, tmp_path / "again")
    assert [p.read_text() for p in again] == [p.read_text() for p in paths]
    assert not list(tmp_path.glob(".run*"))


def revalidated(run: Run) -> Run:
    """As if some trials had not been measured again, of other source than the plan's."""
    studies = tuple(
        replace(
            one,
            source="0123abcd",
            repeats=2,
            trials=tuple(
                replace(trial, stale="not measured again on 2026-01-02" if index % 4 == 1 else "")
                for index, trial in enumerate(one.trials)
            ),
        )
        for one in measured(run).studies
    )
    return replace(measured(run), studies=studies)


def test_what_was_stale_stays_stale(simulated: Run, tmp_path: Path) -> None:
    run = revalidated(simulated)
    import_t4(write(run, tmp_path / "t4"), tmp_path / "run")
    back = tuning.load_run(tmp_path / "run")
    assert back.studies == run.studies
    best = back.studies[0].best
    assert best is not None
    assert best.config == run.studies[0].trials[11].config  # the fifth is faster, and stale
    plan = make_plan(tmp_path / "run", studies=2, simulate=False)
    with RunStorage(tmp_path / "run") as storage:
        won = winner(storage, plan.study_name(plan.studies[0]))
    assert won == best.config.to_dict()
    assert staleness(back.studies[0], None) == [f"the source of {MANY} changed"]


def test_an_imported_sweep_is_finished_and_may_go_on(simulated: Run, tmp_path: Path) -> None:
    import_t4(write(simulated, tmp_path / "t4"), tmp_path / "run")
    events: list[Any] = []
    sweep(make_plan(tmp_path / "run", studies=2), events.append)
    assert [event.trial for event in events] == [None, None]
    more = sweep(make_plan(tmp_path / "run", studies=2, max_measurements=20))
    for study, before in zip(more.studies, simulated.studies, strict=True):
        assert study.trials[:12] == before.trials
        assert len({trial.config for trial in study.trials}) == 20


def test_a_result_is_pinned(simulated: Run) -> None:
    run = measured(simulated)
    content = study_to_t4(run, run.studies[0])
    correct, wrong = content["results"][5], content["results"][4]
    own = correct.pop("workbench")
    assert own["measurement"]["samples_us"] == [5.1, 1 / 3 + 5, 7.7]
    assert own["predicted_us"] > 0
    assert correct == {
        "configuration": run.studies[0].trials[5].config.to_dict(),
        "objectives": ["time"],
        "times": {"runtimes": [5.1 / 1000, (1 / 3 + 5) / 1000, 7.7 / 1000]},
        "invalidity": "correct",
        "correctness": 1,
        "measurements": [
            {"name": "time", "value": (1 / 3 + 5) / 1000, "unit": "ms"},
            {"name": "predicted_time", "value": own["predicted_us"] / 1000, "unit": "ms"},
            {"name": "relative_rms_error", "value": 1e-3, "unit": ""},
        ],
    }
    assert (wrong["invalidity"], wrong["correctness"]) == ("correctness", 0)
    assert wrong["times"] == {"runtimes": []}
    assert "time" not in [entry["name"] for entry in wrong["measurements"]]
    assert content["schema_version"] == "1.0.0"
    assert content["metadata"]["environment"]["requirements"] == ["torch==2.11.0", "triton==3.6.0"]


def test_simulated_times_are_not_called_times(simulated: Run) -> None:
    for result in study_to_t4(simulated, simulated.studies[0])["results"]:
        assert result["objectives"] == ["simulated_time"]
        assert "time" not in [entry["name"] for entry in result["measurements"]]


@pytest.mark.parametrize("make", [lambda run: run, measured], ids=["simulated", "measured"])
def test_files_keep_the_published_schema(simulated: Run, make: Callable[[Run], Run]) -> None:
    run = make(simulated)
    check_t4(json.loads(t4_text(study_to_t4(run, run.studies[0]))))


def damaged(run: Run, path: Path, damage: Callable[[dict[str, Any]], None]) -> Path:
    content = study_to_t4(run, run.studies[0])
    damage(content)
    path.write_text(json.dumps(content))
    return path


def _edit_time(content: dict[str, Any]) -> None:
    content["results"][0]["measurements"][0]["value"] *= 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_edit_time, r"results\[0\]: its key workbench says otherwise than the rest: it was"),
        (lambda c: c["workbench"].pop("kernel"), "'kernel' is missing"),
        (lambda c: c["workbench"].update(schema="tile-workbench/t4-study/9"), "this version reads"),
        (lambda c: c.update(workbench=3), "this version reads"),
        (lambda c: c["workbench"].update(legal_size="many"), "makes no run: .*legal_size"),
        (lambda c: c["workbench"]["plan"].update(gpu="h100"), "makes no run"),
        (lambda c: c["workbench"].update(gpu_file="schema: 1"), "gpu_file"),
        (lambda c: c["results"][0].pop("workbench"), "'workbench' is missing"),
        (lambda c: c["results"][0]["workbench"].update(stale=1), "stale is not a text"),
        (lambda c: c["results"][0]["workbench"].update(outpaced="much"), "outpaced is not a numb"),
        (lambda c: c["results"][0]["workbench"].update(outpaced=-1), "outpaced is below zero"),
        (lambda c: c["workbench"].update(source=["x"]), "source is not a text"),
        (lambda c: c["workbench"].update(repeats="many"), "makes no run: .*repeats"),
        (lambda c: c["results"][0]["configuration"].update(mode="x"), "takes int, got 'x'"),
    ],
)
def test_a_damaged_file_is_one_line_and_leaves_nothing(
    simulated: Run, tmp_path: Path, damage: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = damaged(simulated, tmp_path / "a.json", damage)
    with pytest.raises(ValueError, match=says) as told:
        import_t4([path], tmp_path / "run")
    assert str(told.value).startswith(str(path))
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        ('{"results": [', "Expecting value"),
        ("[]", "takes an object"),
        ('{"results": [NaN]}', "holds NaN, which is no JSON"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_t4_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        import_t4([path], tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be read"):
        import_t4([tmp_path / "absent.json"], tmp_path / "run")


def test_files_of_different_sweeps_do_not_mix(simulated: Run, tmp_path: Path) -> None:
    paths = write(simulated, tmp_path / "t4")
    other = sweep(make_plan(tmp_path / "other", seed=7))
    (stranger,) = write(other, tmp_path / "t5")
    with pytest.raises(ValueError, match=r"0\.json: of another sweep than .* \(seed differs\)"):
        import_t4([paths[1], stranger], tmp_path / "run")
    with pytest.raises(ValueError, match="holds a study that an earlier file holds"):
        import_t4([paths[0], paths[0]], tmp_path / "run")
    with pytest.raises(ValueError, match="says itself what it holds: leave --gpu out"):
        import_t4(paths, tmp_path / "run", gpu="h200")


def test_an_output_that_is_there_is_not_touched(simulated: Run, tmp_path: Path) -> None:
    paths = write(simulated, tmp_path / "t4")
    (tmp_path / "run").mkdir()
    import_t4(paths, tmp_path / "run")
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="exists: choose another output or delete it"):
        import_t4(paths, tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == files
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made"):
        import_t4(paths, tmp_path / "file" / "run")


def test_an_exhaustive_import_can_be_replayed(tmp_path: Path) -> None:
    from tuning.replay import replay

    run = sweep(make_plan(tmp_path / "swept", strategy=Strategy.EXHAUSTIVE))
    import_t4(write(run, tmp_path / "t4"), tmp_path / "run")
    found = replay(tuning.load_run(tmp_path / "run"), [Strategy.MODEL], seeds=1)
    assert found.studies[0].space.outcomes
    assert (MANY, fake_kernels.GPU.name) == (found.studies[0].space.kernel, found.run.gpu.name)
