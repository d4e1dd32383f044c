"""The command that records data sets: rehearsed slices, files, cards, mistakes."""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import sim
from bench import record_data
from sim.measured_file import read_measured
from tuning.recording.choosing import make_design
from tuning.recording.design import write_design
from tuning.recording.problems import Shape

GPU = sim.load_gpu("h200")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a design of a few studies."""
    folder = tmp_path_factory.mktemp("state")
    chosen = [Shape(10, 1030, 520, cell="odd")]
    write_design(make_design(GPU, 0, own_shapes=chosen), folder / record_data.DESIGN_FILE)
    return folder


def call(state: Path, output: Path, *options: str) -> int:
    return record_data.main(["--state", str(state), "--output", str(output), *options])


def test_slices_of_a_rehearsal_fill_the_files(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for _ in range(2):
        assert call(state, tmp_path, "--rehearse", "--quiet", "--time-limit", "44s") == 0
        said = capsys.readouterr().out
        file = tmp_path / "products" / record_data.SIMULATED_FILE
        tables = read_measured(file)
        counts.append(sum(map(len, tables)))
        assert f"{file}: {counts[-1]} of 320 configurations, {len(tables)} studies" in said
        assert {one.gpu for one in tables} == {"simulated-h200"}
    assert counts[0] < counts[1]
    card = (tmp_path / "products" / record_data.CARD_FILE).read_text()
    assert "**Simulated: a rehearsal's times" in card
    assert "sampling_ms 5" in card
    assert f"{counts[1]} configurations on simulated-h200" in card
    assert "| triton_gemm |" in card
    assert not list(tmp_path.glob("**/measurements.parquet"))  # what is read as measured
    with pytest.raises(ValueError, match="simulated-h200"):
        sim.load_gpu(tables[0].gpu)


def test_what_was_rehearsed_is_exported_again(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(state, tmp_path / "a", "--rehearse", "--quiet", "--time-limit", "44s")
    before = capsys.readouterr().out.splitlines()[1:]
    assert call(state, tmp_path / "b", "--export") == 0
    after = capsys.readouterr().out.splitlines()
    assert [one.replace("/b/", "/a/") for one in after] == before


def test_recording_alone_writes_no_file(state: Path, tmp_path: Path) -> None:
    assert call(state, tmp_path, "--rehearse", "--record-only", "--time-limit", "44s") == 0
    assert not list(tmp_path.iterdir())


def test_the_design_is_told(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(state, tmp_path, "--design") == 0
    assert "design of seed 0: 320 products in " in capsys.readouterr().out


def stand_in(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a shell script run in place of the processes of the GPUs."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize(("last", "code"), [("exit 0", 0), ("exit 2", 2), ("kill -9 $$", 1)])
def test_a_process_that_dies_is_no_success(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    last: str,
    code: int,
) -> None:
    script = f'case "$*" in *"--shard 1/2"*) {last};; esac'
    stand_in(tmp_path / "python", script, monkeypatch)
    assert call(state, tmp_path, "--rehearse", "--record-only", "--gpus", "2") == code
    said = capsys.readouterr().err
    killed = "error: process 1 of 2 was ended by signal 9: the same command goes on\n"
    assert said == (killed if code == 1 else "")


def test_a_signal_ends_the_processes_of_all_gpus(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(
        tmp_path / "python",
        "echo $$ > started$$.new; mv started$$.new $$; exec sleep 60",
        monkeypatch,
    )

    def strike() -> None:
        while len([one for one in tmp_path.iterdir() if one.name.isdecimal()]) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def unheard(number: int, frame: object) -> None:
        raise AssertionError("nobody heard the signal")

    before = signal.signal(signal.SIGTERM, unheard)
    striker = threading.Thread(target=strike, daemon=True)
    try:
        striker.start()
        with pytest.raises(SystemExit) as ended:
            call(state, tmp_path, "--rehearse", "--record-only", "--gpus", "2")
        assert signal.getsignal(signal.SIGTERM) is unheard
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM
    for one in tmp_path.iterdir():
        if one.name.isdecimal():
            with pytest.raises(ProcessLookupError):
                os.kill(int(one.name), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-limit", "20s"], "--time-limit 20s: starting and writing take 30 s: give more"),
        (["--time-limit", "soon"], "a time limit is written 90s, 30m or 2h"),
        (["--seed", "7"], "its seed is 0, not 7"),
        (["--gpu", "h2000"], "unknown gpu"),
    ],
)
def test_mistakes_are_one_line(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert call(state, tmp_path, "--rehearse", *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "this host shows no GPU: rehearse with --rehearse"),
        ("NVIDIA A100-SXM4-80GB", "the device is 'NVIDIA A100-SXM4-80GB', not a h200"),
    ],
)
def test_another_device_is_refused_before_anything_starts(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    message: str,
) -> None:
    monkeypatch.setattr(record_data, "visible_gpu", lambda: name)
    assert call(state, tmp_path, "--gpus", "2") == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_ends_a_recording_with_one_line(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "state"
    own.mkdir()
    (own / record_data.DESIGN_FILE).write_bytes((state / record_data.DESIGN_FILE).read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may be larger
    try:
        code = call(own, tmp_path, "--rehearse", "--record-only", "--time-limit", "44s", "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "File too large: free space or check the path; what was recorded stays" in said
    assert call(own, tmp_path, "--export") == 0  # what fitted is whole
    rows = int(capsys.readouterr().out.split(": ")[1].split()[0])
    assert rows > 5


def test_a_state_that_is_a_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("")
    assert call(tmp_path / "state", tmp_path, "--rehearse", "--shapes", "1") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_nothing_measured_is_nothing_to_export(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "state"
    empty.mkdir()
    (empty / record_data.DESIGN_FILE).write_bytes((state / record_data.DESIGN_FILE).read_bytes())
    assert call(empty, tmp_path, "--export") == 2
    assert "nothing was measured yet: record first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export"], "nothing was measured yet: record first"),
        (["--rehearse", "--time-limit", "soon"], "a time limit is written"),
        (["--rehearse", "--time-limit", "20s"], "give more"),
        ([], "this host shows no GPU"),
    ],
    ids=["export", "no limit", "short limit", "no GPU"],
)
def test_nothing_is_designed_for_a_call_that_cannot_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    """A design takes a minute; mistakes were told after it."""

    def designed(*_: object, **__: object) -> None:
        raise AssertionError("a design was made")

    monkeypatch.setattr(record_data, "make_design", designed)
    monkeypatch.setattr(record_data, "visible_gpu", lambda: None)
    assert call(tmp_path / "state", tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
