"""Failures are remembered across studies, for the same source, problem, device and versions."""

import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fake_kernels
import kill_loop
import pytest
from sweep_runs import make_plan

import tuning
from tiles.kernels import Status
from tuning import Measurement, Plan, Strategy
from tuning.cache_folder import cache_folder
from tuning.journal_file import JOURNAL
from tuning.known_failures import _MAX_BYTES, KnownFailures, failures_path
from tuning.records import Environment

HERE = Environment(gpu="H200", driver="1", sm_clock_mhz=None, versions={"triton": "3.6"})
CONFIG = fake_kernels.FakeConfig(mode=0, size=16, flag=False)
BROKEN = Measurement(status=Status.COMPILE, simulated=False, reason="no registers left")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "run", simulate=False)


def remember(plan: Plan, outcome: Measurement = BROKEN) -> None:
    KnownFailures(plan).remember(plan.studies[0], CONFIG, HERE, outcome)


def known(plan: Plan, where: Environment = HERE, **changes: int) -> Measurement | None:
    return KnownFailures(plan).known(plan.studies[0], replace(CONFIG, **changes), where)


def test_the_tests_have_a_cache_of_their_own(tmp_path: Path) -> None:
    assert Path.home() not in cache_folder().parents
    assert not failures_path().exists()


def test_a_failure_is_known_again_and_dated(plan: Plan) -> None:
    assert known(plan) is None
    remember(plan)
    found = known(plan)
    assert found is not None
    assert found.status is Status.COMPILE
    assert found.reason.startswith("known failure of 20")
    assert found.reason.endswith(": no registers left")
    assert KnownFailures(plan, trust=False).known(plan.studies[0], CONFIG, HERE) is None
    assert failures_path().stat().st_mode & 0o077 == 0


def test_another_source_problem_device_version_or_configuration_is_not_known(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(plan)
    assert known(plan, size=32) is None
    assert known(plan, replace(HERE, gpu="A100")) is None
    assert known(plan, replace(HERE, versions={"triton": "3.7"})) is None
    assert known(plan, replace(HERE, versions={"triton": "3.6", "nvrtc": "13.5"})) is None
    assert known(make_plan(tmp_path / "warm", simulate=False, cache="warm")) is None
    other = replace(plan.studies[0], problem=fake_kernels.gemm(m=128))
    assert KnownFailures(plan).known(other, CONFIG, HERE) is None
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# mended\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    assert known(plan) is None


def test_a_mended_workload_or_bound_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "judged"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "family.py").write_text(
        "import fake_kernels\nclass JudgedKernel(fake_kernels.FakeKernel):\n    pass\n"
    )
    workload = package / "workload.py"
    workload.write_text("BOUND = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    plan = make_plan(tmp_path / "run", "judged.family:JudgedKernel", simulate=False)
    remember(plan)
    assert known(plan) is not None
    workload.write_text("BOUND = 2\n")
    assert known(plan) is None
    workload.write_text("BOUND = 1\n")
    assert known(plan) is not None


@pytest.mark.parametrize(
    "spoiled",
    [b'{"schema": "tile-wor', b"\xff\xfe\n", b"[1]\n", b'{"schema": 3}\n', b"[" * 9000 + b"\n"],
)
def test_lines_that_cannot_be_read_are_passed_over(plan: Plan, spoiled: bytes) -> None:
    failures_path().parent.mkdir(parents=True)
    failures_path().write_bytes(spoiled)
    assert known(plan) is None
    remember(plan)
    assert known(plan) is not None


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remember(plan)
    assert known(plan) is None


def test_a_cache_that_has_grown_keeps_its_younger_half(plan: Plan) -> None:
    remember(plan)
    line = failures_path().read_bytes()
    old = line.replace(json.loads(line)["key"].encode(), b"0" * 64)
    failures_path().write_bytes(old * (_MAX_BYTES // len(old) + 1))
    remember(plan)
    assert failures_path().stat().st_size < 0.6 * _MAX_BYTES
    assert known(plan) is not None


def _remember_many(folder: Path, start: int) -> None:
    plan = make_plan(folder, simulate=False)
    failures = KnownFailures(plan)
    for size in range(start, start + 50):
        failures.remember(plan.studies[0], replace(CONFIG, size=size), HERE, BROKEN)


def test_processes_that_write_at_once_lose_nothing(plan: Plan, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=_remember_many, args=(tmp_path / "run", 1000 * i)) for i in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = failures_path().read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 150


def test_a_second_study_does_not_launch_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_kernels.FakeKernel, "modes", ("fine", "raise"))
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))

    def sweep(name: str, retry: bool = False) -> Counter[str]:
        log.write_text("")
        plan = make_plan(tmp_path / name, simulate=False, strategy=Strategy.EXHAUSTIVE)
        (study,) = tuning.run(plan, price=fake_kernels.price, retry_failures=retry).studies
        for trial in study.trials:
            failed = trial.measurement.status is Status.RUNTIME
            assert failed == (trial.config.to_dict()["mode"] == 2)
            assert ("known failure of" in trial.measurement.reason) == (failed and name == "second")
        return Counter(line.partition("mode=")[2][0] for line in log.read_text().splitlines())

    assert sweep("first") == {"0": 7, "2": 7}
    assert sweep("second") == {"0": 7}
    assert sweep("third", retry=True) == {"0": 7, "2": 7}


@pytest.mark.parametrize("doubtful", [False, True])
def test_a_failure_that_a_neighbour_may_have_caused_is_not_remembered(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, doubtful: bool
) -> None:
    class FailingBench(kill_loop.TableBench):
        def environment(self, study: object) -> Environment:
            return HERE

        def measure(self, *_: object) -> tuple[Measurement, Environment | None]:
            return replace(BROKEN, status=Status.RUNTIME, doubtful=doubtful), HERE

    monkeypatch.setattr("tuning.sweep.Bench", FailingBench)
    run = tuning.run(plan, price=fake_kernels.price)
    assert failures_path().exists() == (not doubtful)
    assert {t.measurement.doubtful for t in run.studies[0].trials} == {doubtful}
    stored = (plan.folder / JOURNAL).read_text()
    assert ("doubtful" in stored) == doubtful
