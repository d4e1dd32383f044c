"""What is wrong with a shared sweep is one line, exit code 2, and never shows a password."""

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Call

import tuning
import workbench
from tuning.begun_mark import unmark_begun
from tuning.journal_file import JOURNAL
from tuning.stored_plan import PLAN_FILE

SECRET = "s3cret-word"
NOBODY = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:1/sweeps"
FILE = """
schema: 1
gpu: h200
problems: [{shape: [256, 256, 256]}]
recipes: [bf16]
kernels: [triton_gemm]
search: {max_measurements: 8}
measure: {on: sim}
output: runs/small
"""


Told = Callable[..., tuple[int, str]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(FILE)
    return tmp_path / "small.yaml"


@pytest.fixture
def told(call: Call) -> Told:
    """The exit code and all that was said, in which there is no password."""

    def run(*words: str) -> tuple[int, str]:
        code, out, err = call(*words)
        assert SECRET not in out + err
        return code, out + err

    return run


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "small.yaml", "--storage", "URL"],
        ["worker", "--study", "small", "--storage", "URL"],
        ["report", "small", "--storage", "URL"],
        ["emit", "small", "--output", "package", "--storage", "URL"],
        ["replay", "small", "--storage", "URL"],
        ["export", "small", "out.json", "--storage", "URL"],
        ["dashboard", "small", "--storage", "URL"],
    ],
    ids=lambda words: words[0],
)
def test_a_storage_that_does_not_answer_is_told_without_its_password(
    file: Path,
    told: Told,
    command: list[str],
) -> None:
    pytest.importorskip("psycopg")
    begin = time.monotonic()
    code, text = told(*(NOBODY if w == "URL" else w for w in command))
    assert code == 2
    assert "error: storage postgresql+psycopg://127.0.0.1:1/sweeps does not answer: " in text
    assert text.rstrip().endswith("start the server or correct the URL")
    assert time.monotonic() - begin < 120
    assert not any(SECRET in p.read_text() for p in file.parent.rglob("*") if p.is_file())


def test_a_developers_traceback_has_no_password(file: Path) -> None:
    pytest.importorskip("psycopg")
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "report", "small", "--storage", NOBODY],
        env={**os.environ, "WORKBENCH_TRACEBACK": "1", "PYTHONPATH": str(_root())},
        capture_output=True,
        text=True,
    )
    assert "Traceback" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def _root() -> Path:
    return Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"{SECRET}", "the storage's URL cannot be read: write postgresql+psycopg://"),
        ("sqlite:///x.db", "begins with 'sqlite': only PostgreSQL is shared safely"),
        (f"postgresql+psycopg://me:{SECRET}@host", "names no database"),
        (f"postgresql+psycopg://me:{SECRET}@host:port/x", "cannot be read"),
        (f"postgresql+psycopg://me:p@{SECRET}@127.0.0.1:1/x", "write '@' in a user's name or "),
        (f"postgresql+psycopg://me:p@{SECRET}/{SECRET}@127.0.0.1:1/x", "'/' as %2F"),
        (f"postgresql+psycopg://me:p@a:1/{SECRET}@127.0.0.1:1/x", "'/' as %2F"),
        (f"postgresql+psycopg://{SECRET}/{SECRET}:p@127.0.0.1:1/x", "'/' as %2F"),
        (f"postgresql+psycopg://me:p@{SECRET}/x?{SECRET}@127.0.0.1:1/x", "'/' as %2F"),
    ],
)
def test_a_wrong_url_is_told(
    file: Path,
    told: Told,
    url: str,
    says: str,
) -> None:
    code, text = told("worker", "--study", "small", "--storage", url)
    assert code == 2
    assert says in text
    assert text.count("\n") == 1


def test_a_server_that_accepts_and_says_nothing_is_not_waited_for_for_ever(
    file: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr("tuning.fleet_storage.CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/x"
        begin = time.monotonic()
        code, text = told("report", "small", "--storage", url)
    assert code == 2
    assert "does not answer" in text
    assert time.monotonic() - begin < 120


@pytest.mark.parametrize("missing", ["psycopg", "optuna_dashboard"])
def test_a_missing_package_names_its_extra(
    file: Path, told: Told, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    code, text = told("dashboard", "small", "--storage", NOBODY)
    assert code == 2
    assert "is missing: pip install 'tile-workbench[fleet]'" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sweep", "small.yaml", "--study", "x"], "add --storage URL"),
        (["sweep", "small.yaml", "--revalidate"], "a simulated sweep has nothing to revalidate"),
        (["sweep", "small.yaml", "--revalidate", "--allow-stale"], "exclude each other"),
        (["worker", "--study", "absent"], "absent: no such run folder"),
        (["dashboard", "absent"], "absent: no such run folder"),
        (["dashboard", "absent", "--host", ""], "host '': name an address to listen on"),
        (
            ["sweep", "small.yaml", "--storage", NOBODY, "--study", "a|b"],
            "study name 'a|b': write it without |",
        ),
    ],
)
def test_mistakes_are_one_line(
    file: Path,
    told: Told,
    words: list[str],
    says: str,
) -> None:
    code, text = told(*words)
    assert code == 2
    assert says in text


def sweep_limited(file: Path, limit: Callable[[], None]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "workbench", "sweep", str(file), "--json"],
        env={**os.environ, "PYTHONPATH": str(_root())},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        cwd=file.parent,
    )


def test_a_disk_that_fills_up_costs_nothing_that_was_stored(file: Path) -> None:
    """A limit on file sizes stands for the disk: the write that crosses it comes back short."""
    text = file.read_text().replace("max_measurements: 8", "max_measurements: 40")
    file.write_text(text)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    # The list of refused configurations is larger than the limit: written beforehand.
    whole = sweep_limited(file, lambda: None)
    assert whole.returncode == 0, whole.stderr
    folder = file.parent / "runs" / "small"
    (folder / JOURNAL).unlink()
    unmark_begun(folder / JOURNAL)
    done = sweep_limited(file, limit)
    assert done.returncode == 2
    assert "cannot be written: File too large: free space" in done.stderr
    assert done.stderr.count("\n") == 1
    kept = tuning.load_run(folder).studies[0].trials
    assert 3 < len(kept) < 40
    assert sweep_limited(file, lambda: None).returncode == 0
    assert tuning.load_run(folder).studies[0].trials[: len(kept)] == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own")
def test_a_read_only_folder_is_told(file: Path) -> None:
    workbench.sweep(file)
    folder = file.parent / "runs" / "small"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        workbench.sweep(file)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(ValueError, match=r"journal\.log: cannot be written: Read-only file"):
            workbench.sweep(file, max_measurements=20)
        assert len(tuning.load_run(folder).studies[0].trials) == 8
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_sweep_of_another_version_is_told(file: Path, told: Told) -> None:
    workbench.sweep(file)
    plan = file.parent / "runs" / "small" / PLAN_FILE
    plan.write_text(plan.read_text().replace("tile-workbench/plan/1", "tile-workbench/plan/7"))
    code, text = told("worker", "--study", "runs/small")
    assert code == 2
    assert "schema 'tile-workbench/plan/7', this version reads 'tile-workbench/plan/1'" in text


def test_a_worker_says_what_it_found_done(file: Path, told: Told) -> None:
    workbench.sweep(file)
    code, text = told("worker", "--study", "runs/small")
    assert code == 0
    assert "gemm:256x256x256:bf16:bf16" in text


def test_a_packed_journal_is_read_and_not_swept_over(file: Path) -> None:
    import gzip

    run = workbench.sweep(file)
    folder = file.parent / "runs" / "small"
    data = (folder / JOURNAL).read_bytes()
    (folder / f"{JOURNAL}.gz").write_bytes(gzip.compress(data))
    (folder / JOURNAL).unlink()
    assert tuning.load_run(folder).studies == run.studies
    with pytest.raises(ValueError, match=r"holds a finished data set \(journal\.log\.gz\)"):
        workbench.sweep(file)
    (folder / f"{JOURNAL}.gz").write_bytes(gzip.compress(data)[:-20])
    with pytest.raises(ValueError, match="cut off or corrupt: bring back a copy"):
        tuning.load_run(folder)


def free_port() -> int:
    """Below those that the system hands out, so that nobody takes it meanwhile."""
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def test_the_dashboard_serves_a_run_folder(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    workbench.sweep(file)
    shutil.copytree(file.parent / "runs" / "small", tmp_path / "copy")
    script = "import workbench; workbench.dashboard('copy', port=1, ready=print)"
    port = free_port()
    script = script.replace("port=1", f"port={port}").replace(
        "=print", "=lambda u: print(u, flush=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(_root())},
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stdout is not None
        watchdog = threading.Timer(300, process.kill)
        watchdog.start()
        page = process.stdout.readline().strip()
        assert page == f"http://127.0.0.1:{port}/dashboard/studies/0"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies") as answer:
            assert b"gemm:256x256x256:bf16:bf16|triton_gemm|h200|simulated" in answer.read()
        with pytest.raises(ValueError, match=rf"127.0.0.1:{port}: Address already in use: choose"):
            workbench.dashboard("runs/small", port=port)
        watchdog.cancel()
    finally:
        process.kill()
        process.communicate()
