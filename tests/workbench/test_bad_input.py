"""Bad input through the command line: one line, exit code 2, nothing left behind."""

import shutil
import sys
from pathlib import Path

import pytest
from command_line import Call, is_mistake
from small_sweep import SWEEP

LONG = "x" * 300

pytestmark = pytest.mark.usefixtures("empty_folder")


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


@pytest.mark.parametrize(
    "name", ["os; import x", "__init__", "torch", "class", LONG, "", "../x", "a\n", "é", 'a"b']
)
def test_a_name_that_is_no_name_emits_nothing(name: str, run_folder: Path, call: Call) -> None:
    answer = call("emit", "run", "-o", "package", "--name", name)
    is_mistake(answer, "package name")
    assert len(answer.err) < 300
    assert not Path("package").exists()
