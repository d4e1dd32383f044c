"""Several processes on one run folder: they share the work, and a dead one's is done again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_kernels
import kill_loop
import optuna
import pytest
from host_pace import slowness
from optuna.storages.journal import JournalFileBackend
from sweep_runs import HUGE, make_plan

import tuning
from tiles.kernels import Accuracy, Status
from tiles.kernels.compile_facts import CompileFacts
from tuning import Measurement, Plan, Progress, Strategy
from tuning.conditions import Conditions
from tuning.fleet import work_in_folder
from tuning.followed_journal import open_followed
from tuning.journal_file import JOURNAL
from tuning.leases import SUFFIX, Lease, anyone_alive, is_alive
from tuning.run_storage import RunStorage
from tuning.store import check_folder, store_plan
from tuning.stored_plan import PLAN_FILE


def test_a_lease_lives_as_long_as_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tuning.leases import Lease\n"
        f"lease = Lease(Path({str(tmp_path)!r}), 'one'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert is_alive(tmp_path, "one")
    assert anyone_alive(tmp_path)
    process.kill()
    process.communicate()
    assert not is_alive(tmp_path, "one")
    assert list(tmp_path.iterdir()) == []  # what the dead one left is cleared away
    with Lease(tmp_path, "two"):
        assert anyone_alive(tmp_path)
        assert not is_alive(tmp_path, "one")
    assert not anyone_alive(tmp_path)


def test_a_worker_joins_a_sweep_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second joins from inside the first one's progress: both are at work at once."""
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    seen: list[str] = []
    joined: list[tuning.Run] = []

    def count(event: Progress) -> None:
        if event.trial is not None:
            seen.append(str(event.trial.config))

    def join(event: Progress) -> None:
        count(event)
        if len(seen) == 10:
            assert len(list(plan.folder.glob(f"*{SUFFIX}"))) == 1
            joined.append(work_in_folder(plan.folder, count, price=fake_kernels.price))

    run = tuning.run(plan, join, price=fake_kernels.price)
    assert len(seen) == len(set(seen)) == 84
    assert len(joined[0].studies[0].trials) == 84
    assert run == tuning.load_run(plan.folder)
    assert not list(plan.folder.glob(f"*{SUFFIX}"))


def test_a_study_is_looked_at_while_it_goes_on(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", studies=2)
    lengths: list[int] = []

    with open_followed_later(plan.folder) as look:
        tuning.run(plan, lambda event: lengths.append(look()), price=fake_kernels.price)
    assert lengths == sorted(lengths)
    assert lengths[-1] == 24
    with pytest.raises(ValueError, match="open for reading only"):
        with open_followed(plan.folder, None) as (storage, _):
            storage.create_new_trial(0)


class open_followed_later:
    """Opens at the first look: the run folder exists by then."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: object = None

    def __enter__(self) -> "object":
        return self.look

    def look(self) -> int:
        if self._opened is None:
            self._opened = open_followed(self._folder, None)
            self.storage, _ = self._opened.__enter__()
        studies = self.storage.get_all_studies()
        return sum(len(self.storage.get_all_trials(s._study_id)) for s in studies)

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.__exit__(None, None, None)  # type: ignore[attr-defined]


def huge_plan(folder: Path, strategy: Strategy) -> Plan:
    return make_plan(folder, HUGE, simulate=False, strategy=strategy, max_measurements=11_000)


def full_outcome(number: int) -> Measurement:
    """As much as a GPU's trial holds: 100 raw samples, accuracy, conditions, facts."""
    time_us = 900 + number % 97 / 7
    return Measurement(
        status=Status.CORRECT,
        simulated=False,
        time_us=time_us,
        samples_us=tuple(round(time_us + i * 37 % 101 / 8, 3) for i in range(100)),
        timing="events-cold",
        accuracy=Accuracy(ok=True, max_error_over_bound=0.91912763193, relative_rms=0.0016612886),
        conditions=Conditions(
            source="nvml",
            sm_clock_mhz=(1890, 1965, 1965, 1965),
            power_w=(502.1, 498.1, 498.1, 498.1),
            temperature_c=(52, 55, 55, 55),
            throttled=("power cap",),
        ),
        facts=CompileFacts(
            compiler="triton 3.6.0",
            target="sm_90",
            threads=256,
            smem_bytes=221_184,
            registers=168,
            stack_bytes=0,
            pipeline_depth=6,
            mma="wgmma",
        ),
    )


def write_trials(folder: Path, trials: int) -> None:
    """A journal as a long sweep leaves it: one configuration after the other, each once."""
    with pytest.raises(KeyboardInterrupt):
        tuning.run(huge_plan(folder, Strategy.RANDOM), lambda _: stop(), price=fake_kernels.price)
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    first = next(i for i, line in enumerate(lines) if line["op_code"] == 4)
    head = lines[:first]
    one = [line for line in lines[first:] if line.get("trial_id", 0) == 0]
    assert {line.get("param_name") for line in one} > {"mode", "size"}
    with (folder / JOURNAL).open("w") as file:
        for line in head:
            file.write(json.dumps(line) + "\n")
        for number in range(trials):
            values = {"mode": number % 12, "size": 1000 + number // 12}
            for line in one:
                if "trial_id" in line:
                    line["trial_id"] = number
                if line.get("param_name") in values:
                    line["param_value_internal"] = float(values[line["param_name"]])
                if "measurement" in line.get("user_attr", {}):
                    line["user_attr"]["measurement"] = full_outcome(number).to_dict()
                file.write(json.dumps(line) + "\n")


@pytest.mark.alone
def test_ten_thousand_trials_open_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five seconds of CPU, of a host at :mod:`host_pace`'s pace, for trials as full as a GPU's.

    The best of some tries counts: a neighbour on the same core can double a time.
    """
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.0)
    folder = tmp_path / "run"
    write_trials(folder, 10_000)
    assert (folder / JOURNAL).stat().st_size > 10_000 * 3000
    opened: list[int] = []

    def opening() -> None:
        opened.append(len(tuning.load_run(folder).studies[0].trials))

    assert best_s(opening) < 5
    assert set(opened) == {10_000}
    plan = (folder / PLAN_FILE).read_text()
    for strategy in (Strategy.RANDOM, Strategy.TPE):
        (folder / PLAN_FILE).write_text(plan.replace('"random"', f'"{strategy.value}"'))
        seen: list[int] = []

        def resuming(strategy: Strategy = strategy, seen: list[int] = seen) -> None:
            with pytest.raises(KeyboardInterrupt):
                tuning.run(
                    huge_plan(folder, strategy),
                    lambda event: (seen.append(event.finished), stop()),
                    price=fake_kernels.price,
                )

        journal = (folder / JOURNAL).read_bytes()
        assert best_s(resuming) < 5
        assert seen == [10_001 + i for i in range(len(seen))]
        (folder / JOURNAL).write_bytes(journal)


def best_s(do: Callable[[], None]) -> float:
    """CPU seconds at this host's pace: the least of up to six tries, the first that will do."""
    seconds: list[float] = []
    while len(seconds) < 6 and min(seconds, default=9.9) >= 5:
        begun = time.process_time()
        do()
        seconds.append((time.process_time() - begun) / slowness())
    return min(seconds)


def stop() -> None:
    raise KeyboardInterrupt


def test_optuna_reads_what_several_processes_wrote(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", studies=2)
    tuning.run(plan, price=fake_kernels.price)
    theirs = optuna.storages.JournalStorage(JournalFileBackend(str(plan.folder / JOURNAL)))
    with RunStorage(plan.folder) as ours:
        for study in ours.get_all_studies():
            assert theirs.get_all_trials(study._study_id) == ours.get_all_trials(study._study_id)


@pytest.mark.parametrize("look", ["exists", "iterdir"])
def test_a_sweep_that_another_process_begins_meanwhile_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    plan = make_plan(tmp_path / "run")
    plain = getattr(Path, look)
    begun: list[Path] = []

    def then_the_other_begins(path: Path) -> Any:
        found = plain(path)
        found = found if look == "exists" else iter(list(found))
        if not begun and path in (plan.folder, plan.folder / PLAN_FILE):
            begun.append(path)
            store_plan(plan)
            (plan.folder / JOURNAL).write_text("{}\n")
        return found

    monkeypatch.setattr(Path, look, then_the_other_begins)
    check_folder(plan)
    assert begun
