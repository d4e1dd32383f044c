"""Bad input, damaged files and interruptions through the command line: one line, exit code 2."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Call, is_mistake
from emit_runs import simulated_run

import tuning
import workbench

SWEEP = """
schema: 1
gpu: h200
problems: [{shape: [256, 256, 256]}]
recipes: [bf16]
kernels: [triton_gemm]
search: {max_measurements: 2}
measure: {on: sim}
output: run
"""
LONG = "x" * 300

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run folder; tests copy it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    simulated_run(folder, [("gemm:256x256x256:bf16:bf16", "triton_gemm")])
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def emitted(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from workbench import emit

    return emit(finished, tmp_path_factory.mktemp("emitted") / "package").folder


def test_without_a_verb_the_help_is_all(call: Call) -> None:
    answer = call()
    assert (answer.code, answer.err) == (2, "")


OVERRIDES = {
    "no place": (["--on", ""], "--on takes"),
    "no time": (["--time-limit", ""], "a time limit is written"),
    "absurd measurements": (["--max-measurements", "9" * 30], "at least 1 and at most 1000000"),
    "zero measurements": (["--max-measurements", "0"], "at least 1 and at most 1000000"),
    "output of other files": (["--output", "."], "no sweep: choose another output"),
    "output is a file": (["--output", "s.yaml"], "choose another output"),
}


@pytest.mark.parametrize(("arguments", "says"), OVERRIDES.values(), ids=OVERRIDES.keys())
def test_a_bad_override_leaves_nothing_behind(arguments: list[str], says: str, call: Call) -> None:
    Path("s.yaml").write_text(SWEEP)
    is_mistake(call("sweep", "s.yaml", *arguments), says)
    assert [path.name for path in Path().iterdir()] == ["s.yaml"]
    assert Path("s.yaml").read_text() == SWEEP


def test_a_refused_gpu_sweep_does_not_bind_its_folder(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says to simulate instead: the same folder must then take the simulated sweep."""

    def start(*_: object) -> None:
        raise ValueError("torch finds no CUDA device: simulate the sweep instead")

    monkeypatch.setattr("tuning.sweep.Bench.start", start)
    Path("s.yaml").write_text(SWEEP)
    is_mistake(call("sweep", "s.yaml", "--on", "gpu"), "simulate the sweep instead")
    assert not Path("run/plan.json").exists()
    assert call("sweep", "s.yaml", "--json").code == 0


@pytest.mark.parametrize("python", [shutil.which("false"), "/nowhere/python"])
def test_a_measuring_process_that_does_not_start_is_told(
    python: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("s.yaml").write_text(SWEEP)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", python)
        answer = call("sweep", "s.yaml", "--on", "gpu")
    is_mistake(answer, "error: the measuring process does not start: ")
    assert "or simulate the sweep" in answer.err
    assert not Path("run/plan.json").exists()


def _without(line: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: lines[:line] + lines[line + 1 :]


def _with(entry: bytes) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [*lines, entry + b"\n"]


JOURNALS = {
    "line lost from the description": _without(3),
    "number lost from the description": _without(6),
    "first line lost": _without(0),
    "nested beyond the stack": _with(b"[" * 200_000),
    "code is a float": _with(b'{"op_code": 1.0}'),
    "bare operation": _with(b'{"op_code": 5, "worker_id": "x"}'),
    "unknown trial": _with(b'{"op_code":8,"worker_id":"x","trial_id":99,"user_attr":{"a":1}}'),
    "wrong type": lambda lines: [
        line.replace(b'"legal_size":', b'"legal_size":"many","x":') for line in lines
    ],
    "no parameters": lambda lines: [
        line.replace(b'"distribution":', b'"distribution":0,"x":') for line in lines
    ],
    "reversed": lambda lines: lines[::-1],
    "binary": _with(bytes(range(256))),
    "zeros": _with(bytes(4096)),
}


@pytest.mark.parametrize("verb", ["report", "emit", "sweep"])
@pytest.mark.parametrize("damage", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_damaged_journal_is_told_and_left_as_it_is(
    verb: str, damage: Callable[[list[bytes]], list[bytes]], run: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    journal = run / "journal.log"
    whole = journal.read_bytes()
    damaged = b"".join(damage(whole.splitlines(keepends=True)))
    assert damaged != whole
    journal.write_bytes(damaged)
    commands = {
        "report": ["report", "run"],
        "emit": ["emit", "run", "-o", "package"],
        "sweep": ["sweep", "s.yaml", "--max-measurements", "4"],
    }
    # The plan that was stored must not be what stops the sweep.
    stored = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**stored, "time_limit_s": 1800.0}))
    is_mistake(call(*commands[verb]), "journal.log")
    assert journal.read_bytes() == damaged
    assert not Path("package").exists()


@pytest.mark.parametrize("command", ["sweep s.yaml", "report run", "emit run -o p", "repair run"])
@pytest.mark.parametrize("lost", ["is empty", "is missing"])
def test_a_journal_that_lost_everything_is_not_a_new_sweep(
    command: str, lost: str, run: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    journal = run / "journal.log"
    journal.unlink()
    if lost == "is empty":
        journal.touch()
    is_mistake(call(*command.split()), f"journal.log: {lost}, but its sweep has recorded results")
    assert journal.exists() == (lost == "is empty")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("share", [0.02, 0.31, 0.5, 0.77, 0.999])
def test_a_journal_cut_anywhere_is_repaired_without_loss(
    share: float, run: Path, call: Call
) -> None:
    journal = run / "journal.log"
    data = journal.read_bytes()
    cut = data[: int(share * len(data))]
    journal.write_bytes(cut)
    Path("s.yaml").write_text(SWEEP.replace("max_measurements: 2", "max_measurements: 3"))
    if not cut.endswith(b"\n"):
        is_mistake(call("sweep", "s.yaml"), "workbench repair run")
        assert call("repair", "run").code == 0
        torn = (run / "journal.log.torn").read_bytes()
        assert journal.read_bytes() + torn == cut + b"\n"
    assert call("sweep", "s.yaml", "--json").code == 0
    (study,) = tuning.load_run(run).studies
    assert len(study.trials) == len({str(trial.config) for trial in study.trials}) == 3


def _plan(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


PLANS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "nested beyond the stack": lambda data: b'{"a":' * 200_000,
    "no studies": _plan(studies=None),
    "studies of another kind": _plan(studies=[1]),
    "unknown problem": _plan(studies=[{"problem": "x", "kernel": "y"}]),
    "time limit is a list": _plan(time_limit_s=[]),
    "gpu is a number": _plan(gpu=5),
    "not a number": _plan(seed=float("nan")),
    "other schema": _plan(schema="tile-workbench/plan/99"),
}


@pytest.mark.parametrize("verb", ["report", "emit", "sweep"])
@pytest.mark.parametrize("damage", PLANS.values(), ids=PLANS.keys())
def test_a_damaged_plan_is_told_and_left_as_it_is(
    verb: str, damage: Callable[[bytes], bytes], run: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    plan = run / "plan.json"
    damaged = damage(plan.read_bytes())
    plan.write_bytes(damaged)
    output = [] if verb == "report" else ["-o", "out"]
    arguments = ["sweep", "s.yaml"] if verb == "sweep" else [verb, "run", *output]
    is_mistake(call(*arguments), "plan.json")
    assert plan.read_bytes() == damaged


@pytest.mark.parametrize("verb", ["report", "emit"])
@pytest.mark.parametrize("output", ["run/plan.json/x", LONG, "/proc/nowhere/x"])
def test_an_output_that_cannot_be_written(verb: str, output: str, run: Path, call: Call) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    is_mistake(call(verb, "run", "-o", output), "free space or choose another output")
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\x7f", "a\u0085b", "a\u2028b", "a\udcff"])
def test_an_output_whose_name_would_garble_a_terminal(name: str, run: Path, call: Call) -> None:
    for verb in ("report", "emit"):
        answer = call(verb, "run", "-o", name)
        is_mistake(answer, "control characters: choose another name")
        assert name not in answer.err
    with pytest.raises(ValueError, match="control characters: choose another name"):
        workbench.report("run", name)
    with pytest.raises(ValueError, match="control characters: choose another name"):
        workbench.emit("run", name)
    assert [path.name for path in Path().iterdir()] == ["run"]


def test_no_file_replaces_a_device_or_a_pipe(run: Path, emitted: Path, call: Call) -> None:
    os.mkfifo("pipe")
    is_mistake(call("report", "run", "-o", "pipe"), "not a regular file")
    is_mistake(call("verify", emitted, "--output", "pipe"), "not a regular file")
    is_mistake(call("verify", emitted, "--output", "."), "is a folder")
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sweep.yaml", SWEEP),
        ("notes.txt", "x"),
        ("foreign.html", "<!DOCTYPE html>\n<p>tile-workbench/report/1</p>"),
        ("other.json", '{"schema": "tile-workbench/replay/1"}'),
        ("binary.bin", "\0\ufffd"),
    ],
)
def test_a_file_of_another_kind_is_not_replaced(
    name: str, content: str, run: Path, emitted: Path, call: Call
) -> None:
    Path(name).write_text(content)
    is_mistake(call("report", run, "-o", name), "exists and holds no tile-workbench/report")
    is_mistake(call("verify", emitted, "--output", name), "holds no tile-workbench/verify")
    assert Path(name).read_text() == content


@pytest.mark.parametrize(
    "name",
    ["journal.log", "journal.log.gz", "journal.log.torn", "plan.json", "gpu.yaml", "x.lease",
     "rejections.csv.gz"],
)  # fmt: skip
def test_no_output_becomes_part_of_a_runs_record(name: str, run: Path, call: Call) -> None:
    for there in (True, False):
        if not there and name != "plan.json":
            (run / name).unlink(missing_ok=True)
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        is_mistake(call("replay", run, "-o", run / name), "the run's own record goes there")
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_an_older_file_of_the_same_kind_is_replaced(run: Path, call: Call) -> None:
    page = workbench.report(run, "page.html").read_text()
    for older in ("", page, page.replace("tile-workbench/report/1", "tile-workbench/report/0")):
        Path("page.html").write_text(older)
        assert call("report", run, "-o", "page.html").code == 0
        assert Path("page.html").read_text() == page
    for _ in range(2):
        assert call("export", run, "one.json").code == 0
    is_mistake(call("replay", run, "-o", "one.json"), "exists and holds no tile-workbench/replay")


def _edit_evidence(**changes: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "EVIDENCE.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


PACKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda p: os.mkfifo(p / "pipe"), "pipe is no plain file"),
    "link": (lambda p: (p / "link").symlink_to("/etc"), "link is a link"),
    "evidence nested": (
        lambda p: (p / "EVIDENCE.json").write_text("[" * 200_000),
        "emit the package again",
    ),
    "no files": (_edit_evidence(files=None), "does not carry the schema"),
    "files of lists": (_edit_evidence(files={"a": [1]}), "does not carry the schema"),
    "templates of text": (_edit_evidence(templates={"a": "b"}), "does not carry the schema"),
}


@pytest.mark.parametrize(("edit", "says"), PACKAGES.values(), ids=PACKAGES.keys())
def test_a_tampered_package_is_refused(
    edit: Callable[[Path], object], says: str, emitted: Path, tmp_path: Path, call: Call
) -> None:
    edit(Path(shutil.copytree(emitted, tmp_path / "package")))
    is_mistake(call("verify", "package", "--device", "cpu"), says)


def _wheel(**changes: int) -> bytes:
    """A one-file wheel with single bytes of its headers changed: 6 flags, 8 method."""
    path = Path("made.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/EVIDENCE.json", "{}")
    data = bytearray(path.read_bytes())
    path.unlink()
    central = data.find(b"PK\x01\x02")
    for name, value in changes.items():
        at = {"flags": 6, "method": 8}[name]
        data[at] = data[central + at + 2] = value
    return bytes(data)


@pytest.mark.parametrize("changes", [{"flags": 1}, {"method": 99}, {"method": 8}])
def test_a_wheel_packed_strangely_is_refused(changes: dict[str, int], call: Call) -> None:
    Path("x.whl").write_bytes(_wheel(**changes))
    is_mistake(call("verify", "x.whl"), "not a wheel that can be read")


def test_a_wheel_that_unpacks_to_gigabytes_is_refused(call: Call) -> None:
    block = bytes(2**25)
    with zipfile.ZipFile("x.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for index in range(9):
            archive.writestr(f"a/{index}", block)
    is_mistake(call("verify", "x.whl"), "too large for such a package")


@pytest.mark.parametrize(
    "name", ["os; import x", "__init__", "torch", "class", LONG, "", "../x", "a\n", "é", 'a"b']
)
def test_a_name_that_is_no_name_emits_nothing(name: str, run: Path, call: Call) -> None:
    answer = call("emit", "run", "-o", "package", "--name", name)
    is_mistake(answer, "package name")
    assert len(answer.err) < 300
    assert not Path("package").exists()


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
