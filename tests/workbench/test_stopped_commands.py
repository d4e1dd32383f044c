"""Commands that are interrupted, or whose output nobody takes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_sweep import SWEEP

import tuning

pytestmark = pytest.mark.usefixtures("empty_folder")


def _workbench(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m workbench {arguments}; echo rc=${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, **environment},
    )


def test_a_reader_that_leaves_early_is_no_mistake() -> None:
    assert _workbench("formats --json | true").stderr == ""


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="Linux's full device")
def test_output_that_a_full_disk_swallows_is_told() -> None:
    done = _workbench("formats --json > /dev/full")
    assert done.stdout == "rc=2\n"
    assert done.stderr.startswith("error: output cannot be written: No space left")
    assert done.stderr.count("\n") == 1


def test_a_closed_output_is_no_traceback() -> None:
    assert "Traceback" not in _workbench("formats --json >&-").stderr


def test_a_narrow_ascii_terminal_gets_an_answer() -> None:
    done = _workbench("formats", COLUMNS="20", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.stderr == ""
    assert done.stdout.endswith("rc=0\n")


def test_a_name_that_the_locale_has_no_letters_for_is_told() -> None:
    Path("sweep.yaml").write_text(SWEEP.replace("output: run", "output: r\u00fcn"), "utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = _workbench("sweep sweep.yaml", **ascii_only)
    assert done.stdout == "rc=2\n"
    assert "this locale has no such characters (ascii): choose another name" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [
        (signal.SIGINT, 130, "interrupted; nothing is lost"),
        pytest.param(signal.SIGTERM, 143, "terminated; nothing is lost", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_sweep_goes_on(
    sent: signal.Signals, code: int, says: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "workbench", "sweep", "s.yaml", "--json"]
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        returned, err = _stopped(command, folder, sent)
        if returned != 0:  # else the sweep was done before this process noticed that it had begun
            break
    assert returned == code, err
    assert says in err
    assert err.count("\n") == bool(says)
    again = subprocess.run(
        [*command, "--max-measurements", "160"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    (study,) = tuning.load_run(folder / "run").studies
    assert len(study.trials) == len({str(trial.config) for trial in study.trials}) == 160


def _stopped(command: list[str], folder: Path, sent: signal.Signals) -> tuple[int, str]:
    """How a sweep of 150 measurements ends that gets a signal after some of them."""
    folder.mkdir()
    (folder / "s.yaml").write_text(SWEEP.replace("measurements: 2", "measurements: 150"))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        journal = folder / "run/journal.log"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:
            if journal.exists() and journal.stat().st_size > 2000:
                break
            time.sleep(0.02)
        process.send_signal(sent)
        _, err = process.communicate(timeout=300)
    return process.returncode, err
