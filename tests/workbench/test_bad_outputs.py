"""Outputs that cannot be written, or would replace what is not theirs."""

import os
from pathlib import Path

import pytest
from command_line import Call, is_mistake
from small_sweep import SWEEP

import workbench

LONG = "x" * 300

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.mark.parametrize("verb", ["report", "emit"])
@pytest.mark.parametrize("output", ["run/plan.json/x", LONG, "/proc/nowhere/x"])
def test_an_output_that_cannot_be_written(
    verb: str, output: str, run_folder: Path, call: Call
) -> None:
    before = {path: path.read_bytes() for path in run_folder.iterdir()}
    is_mistake(call(verb, "run", "-o", output), "free space or choose another output")
    assert {path: path.read_bytes() for path in run_folder.iterdir()} == before
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\x7f", "a\u0085b", "a\u2028b", "a\udcff"])
def test_an_output_whose_name_would_garble_a_terminal(
    name: str, run_folder: Path, call: Call
) -> None:
    for verb in ("report", "emit"):
        answer = call(verb, "run", "-o", name)
        is_mistake(answer, "control characters: choose another name")
        assert name not in answer.err
    with pytest.raises(ValueError, match="control characters: choose another name"):
        workbench.report("run", name)
    with pytest.raises(ValueError, match="control characters: choose another name"):
        workbench.emit("run", name)
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.parametrize("output", ["file/x.json", "/proc/nowhere/x.json", LONG + "/x.json"])
def test_what_takes_long_looks_first_whether_its_answer_can_be_kept(
    output: str, emitted_package: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(*_: object, **__: object) -> None:
        pytest.fail("the package was checked")

    Path("file").touch()
    monkeypatch.setattr("workbench.verification.verify", checked)
    is_mistake(call("verify", emitted_package, "--output", output), "cannot be written")
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_no_file_replaces_a_device_or_a_pipe(
    run_folder: Path, emitted_package: Path, call: Call
) -> None:
    os.mkfifo("pipe")
    is_mistake(call("report", "run", "-o", "pipe"), "not a regular file")
    is_mistake(call("verify", emitted_package, "--output", "pipe"), "not a regular file")
    is_mistake(call("verify", emitted_package, "--output", "."), "is a folder")
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
    name: str, content: str, run_folder: Path, emitted_package: Path, call: Call
) -> None:
    Path(name).write_text(content)
    is_mistake(call("report", run_folder, "-o", name), "exists and holds no tile-workbench/report")
    is_mistake(call("verify", emitted_package, "--output", name), "holds no tile-workbench/verify")
    assert Path(name).read_text() == content


@pytest.mark.parametrize(
    "name",
    ["journal.log", "journal.log.gz", "journal.log.torn", "plan.json", "gpu.yaml", "x.lease",
     "rejections.csv.gz"],
)  # fmt: skip
def test_no_output_becomes_part_of_a_runs_record(name: str, run_folder: Path, call: Call) -> None:
    for there in (True, False):
        if not there and name != "plan.json":
            (run_folder / name).unlink(missing_ok=True)
        before = {path.name: path.read_bytes() for path in run_folder.iterdir()}
        is_mistake(
            call("replay", run_folder, "-o", run_folder / name), "the run's own record goes there"
        )
        assert {path.name: path.read_bytes() for path in run_folder.iterdir()} == before


def test_an_older_file_of_the_same_kind_is_replaced(run_folder: Path, call: Call) -> None:
    page = workbench.report(run_folder, "page.html").read_text()
    for older in ("", page, page.replace("tile-workbench/report/1", "tile-workbench/report/0")):
        Path("page.html").write_text(older)
        assert call("report", run_folder, "-o", "page.html").code == 0
        assert Path("page.html").read_text() == page
    for _ in range(2):
        assert call("export", run_folder, "one.json").code == 0
    is_mistake(
        call("replay", run_folder, "-o", "one.json"), "exists and holds no tile-workbench/replay"
    )


def test_a_sweep_over_other_kernels_is_told_as_such(run_folder: Path, call: Call) -> None:
    """Of other kernels the sources differ as well, though nobody edited one."""
    Path("other.yaml").write_text(SWEEP.replace("triton_gemm", "hopper_gemm"))
    is_mistake(call("sweep", "other.yaml"), "holds another sweep (what is searched differs)")
