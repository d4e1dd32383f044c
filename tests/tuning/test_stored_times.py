"""Times of a record that was edited: no clock gives them, and no winner is made of them."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tuning
from sim import load_gpu
from tiles.kernels import Status
from tiles.problems import parse_problem
from tuning import Measurement, worker_main
from tuning.journal_file import JOURNAL


@pytest.mark.parametrize("time_us", [0.0, -5.0, float("nan"), float("inf")])
def test_a_time_that_no_clock_gives_is_refused(time_us: float) -> None:
    stored = Measurement(status=Status.CORRECT, simulated=True, time_us=12.5).to_dict()
    assert Measurement.from_dict(stored).time_us == 12.5
    assert Measurement.from_dict({**stored, "time_us": None}).time_us is None
    with pytest.raises(ValueError, match="a time is above 0 and finite"):
        Measurement.from_dict({**stored, "time_us": time_us})


@pytest.mark.parametrize("text", ["-5.0", "NaN", "1e999"])
def test_a_run_with_such_a_time_is_one_line(text: str, tmp_path: Path) -> None:
    problem = parse_problem("gemm:64x64x128:bf16:bf16")
    plan = tuning.Plan(
        studies=(tuning.StudyPlan(problem=problem, kernel="triton_gemm"),),
        gpu=load_gpu("h200"),
        folder=tmp_path / "run",
        simulate=True,
        max_measurements=2,
    )
    tuning.run(plan)
    journal = tmp_path / "run" / JOURNAL
    edited, times = re.subn(r'(time_us\\*": ?)[0-9.]+', rf"\g<1>{text}", journal.read_text())
    assert times >= 2
    journal.write_text(edited)
    with pytest.raises(ValueError, match=r"a time is above 0 and finite\): it was edited or lost"):
        tuning.load_run(tmp_path / "run")


@pytest.mark.parametrize("time_us", [0.0, float("nan")])
def test_a_launch_that_the_clock_did_not_see_has_no_time(
    time_us: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep goes on: what comes back can be read."""
    config_type = SimpleNamespace(from_dict=lambda config: config)
    opened = (
        SimpleNamespace(config_type=config_type),
        SimpleNamespace(launchers=print, set_bytes=1),
    )
    bench: Any = SimpleNamespace(open=lambda job: opened, observer=None)
    monkeypatch.setattr(worker_main, "open_timer", lambda *_, **__: SimpleNamespace(name="clock"))
    monkeypatch.setattr(worker_main, "guarded_samples", lambda *_: ((time_us,) * 5, None))
    job = dict.fromkeys(("device", "cache", "sampling_us", "l2_bytes", "energy", "environment"))
    told: dict[str, Any] = {}
    worker_main._measure(bench, job | {"config": {}, "checked": True}, told.__setitem__)
    outcome = Measurement.from_dict(told["done"]["measurement"])
    assert (outcome.status, outcome.time_us) == (Status.RUNTIME, None)
    assert outcome.reason.endswith("us: the clock saw no launch")
