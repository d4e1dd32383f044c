"""A fleet on a PostgreSQL server: killed workers, a restarted server, racing creators."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fleet_worker
import postgres
import pytest

import tuning
from tuning.fleet import load_shared, run_shared, work

pytestmark = postgres.MARKS


def start(
    name: str, url: str, log: Path, *words: str, together: int = 1
) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    return subprocess.Popen(
        [sys.executable, str(here / "fleet_worker.py"), name, url, *words],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "FLEET_LOG": str(log),
            "FLEET_TOGETHER": str(together),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(log: Path) -> list[list[str]]:
    return [line.split(" ", 2) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(log: Path, count: int, processes: "list[subprocess.Popen[str]]") -> None:
    deadline = time.monotonic() + 900
    while sum(word == "end" for _, word, _ in lines_of(log)) < count:
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() in (None, 0, -signal.SIGKILL), process.communicate()[1][-3000:]
        time.sleep(0.02)


def strike(process: "subprocess.Popen[str]", log: Path) -> None:
    """Kill a worker while it measures."""
    Path(f"{log}.{process.pid}").touch()
    while [str(process.pid), "held"] not in [line[:2] for line in lines_of(log)]:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)
    process.kill()
    process.communicate()


def test_four_workers_two_killed_server_restarted_once(
    tmp_path: Path, server: postgres.Server
) -> None:
    log = tmp_path / "log"
    # Two begin the same study at once; two more help.
    workers = [start("night", server.url, log, "begin", "exhaustive") for _ in range(2)]
    wait_for(log, 5, workers)
    workers += [start("night", server.url, log) for _ in range(2)]
    wait_for(log, 60, workers)
    strike(workers[0], log)
    wait_for(log, 120, workers)
    server.restart()
    wait_for(log, 180, workers)
    strike(workers[2], log)
    for process in (workers[1], workers[3]):
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err[-3000:]
        assert postgres.PASSWORD not in out + err
    (study,) = load_shared("night", server.url).studies
    configs = Counter(trial.config for trial in study.trials)
    assert len(configs) == study.legal_size == 400
    assert set(configs.values()) == {1}
    assert study.stopped == "400 of 400 measurements done"
    # Launched twice: what the killed workers had begun, and at most what the restart cut short of
    # the three at work.
    begun = Counter(config for _, word, config in lines_of(log) if word == "begin")
    ended = Counter(config for _, word, config in lines_of(log) if word == "end")
    assert len(begun) == 400
    twice = [config for config, count in begun.items() if count > 1]
    assert 2 <= len(twice) <= 5
    assert sum(count > 1 for count in ended.values()) <= 3
    print(f"launched twice: {len(twice)}")


def test_model_guided_workers_repeat_at_most_one_in_a_hundred(
    tmp_path: Path, server: postgres.Server
) -> None:
    log = tmp_path / "log"
    workers = [start("guided", server.url, log, "begin", "hybrid", together=3) for _ in range(3)]
    for process in workers:
        err = process.communicate(timeout=900)[1]
        assert process.returncode == 0, err[-3000:]
    (study,) = load_shared("guided", server.url).studies
    begun = Counter(config for _, word, config in lines_of(log) if word == "begin")
    assert len(study.trials) == len({trial.config for trial in study.trials}) == len(begun)
    assert sum(begun.values()) <= 1.01 * len(begun)
    assert len({pid for pid, *_ in lines_of(log)}) == 3


def test_another_space_or_plan_under_one_name_is_refused(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep(**changes: object) -> tuning.Run:
        plan = fleet_worker.make_plan("one", "model", simulate=True, max_measurements=3, **changes)
        return run_shared(plan, server.url, price=fleet_worker.price)

    run = sweep()
    assert len(run.studies[0].trials) == 3
    assert sweep() == run == load_shared("one", server.url) == load_shared("one@fake", server.url)
    with pytest.raises(ValueError, match=r"'one' of postgresql.* holds another .*\(seed diff"):
        sweep(seed=7)
    space = fleet_worker.GridKernel.space
    monkeypatch.setattr(
        fleet_worker.GridKernel, "space", lambda *a: space(*a).take(space(*a)["size"] > 3)
    )
    with pytest.raises(ValueError, match=r"the space of gemm.* differs"):
        sweep()
    notes: list[str] = []
    with pytest.raises(ValueError, match=r"no study of 'one' can run here: .*other config"):
        work("one", server.url, note=notes.append, price=fleet_worker.price)
    monkeypatch.undo()
    monkeypatch.setattr("tuning.plan.PLAN_SCHEMA", "tile-workbench/plan/9")
    with pytest.raises(ValueError, match="schema differs"):
        sweep()
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"holds no study 'two': it holds .*one"):
        load_shared("two", server.url)


def test_nothing_stored_holds_the_password(server: postgres.Server) -> None:
    import psycopg

    plain = server.url.replace("+psycopg", "")
    run_shared(
        fleet_worker.make_plan("quiet", "model", simulate=True, max_measurements=2),
        server.url,
        price=fleet_worker.price,
    )
    with psycopg.connect(plain) as connection:
        tables = [
            row[0]
            for row in connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            )
        ]
        text = "".join(
            str(row) for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')
        )
    assert "tile-workbench/plan" in text
    assert postgres.PASSWORD not in text
    with pytest.raises(ValueError, match=r"does not answer: .*password authentication") as told:
        load_shared("quiet", server.url.replace(postgres.PASSWORD, "wr0ng-word"))
    assert "wr0ng-word" not in str(told.value)
    assert told.value.__cause__ is None
