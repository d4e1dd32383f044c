"""Journals and plans that were damaged: one line, exit code 2, and they stay as they are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Call, is_mistake
from small_sweep import SWEEP

import tuning

pytestmark = pytest.mark.usefixtures("empty_folder")


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
    "infinite parameter": lambda lines: [
        line.replace(b'"param_value_internal":', b'"param_value_internal":Infinity,"x":')
        for line in lines
    ],
    "reversed": lambda lines: lines[::-1],
    "binary": _with(bytes(range(256))),
    "zeros": _with(bytes(4096)),
}


@pytest.mark.parametrize("verb", ["report", "emit", "sweep"])
@pytest.mark.parametrize("damage", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_damaged_journal_is_told_and_left_as_it_is(
    verb: str, damage: Callable[[list[bytes]], list[bytes]], run_folder: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    journal = run_folder / "journal.log"
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
    stored = json.loads((run_folder / "plan.json").read_text())
    (run_folder / "plan.json").write_text(json.dumps({**stored, "time_limit_s": 1800.0}))
    is_mistake(call(*commands[verb]), "journal.log")
    assert journal.read_bytes() == damaged
    assert not Path("package").exists()


@pytest.mark.parametrize("command", ["sweep s.yaml", "report run", "emit run -o p", "repair run"])
@pytest.mark.parametrize("lost", ["is empty", "is missing"])
def test_a_journal_that_lost_everything_is_not_a_new_sweep(
    command: str, lost: str, run_folder: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    journal = run_folder / "journal.log"
    journal.unlink()
    if lost == "is empty":
        journal.touch()
    is_mistake(call(*command.split()), f"journal.log: {lost}, but its sweep has recorded results")
    assert journal.exists() == (lost == "is empty")
    assert not (run_folder / "report.html").exists()


@pytest.mark.parametrize("share", [0.02, 0.31, 0.5, 0.77, 0.999])
def test_a_journal_cut_anywhere_is_repaired_without_loss(
    share: float, run_folder: Path, call: Call
) -> None:
    journal = run_folder / "journal.log"
    data = journal.read_bytes()
    cut = data[: int(share * len(data))]
    journal.write_bytes(cut)
    Path("s.yaml").write_text(SWEEP.replace("max_measurements: 2", "max_measurements: 3"))
    if not cut.endswith(b"\n"):
        is_mistake(call("sweep", "s.yaml"), "workbench repair run")
        assert call("repair", "run").code == 0
        torn = (run_folder / "journal.log.torn").read_bytes()
        assert journal.read_bytes() + torn == cut + b"\n"
    assert call("sweep", "s.yaml", "--json").code == 0
    (study,) = tuning.load_run(run_folder).studies
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
    verb: str, damage: Callable[[bytes], bytes], run_folder: Path, call: Call
) -> None:
    Path("s.yaml").write_text(SWEEP)
    plan = run_folder / "plan.json"
    damaged = damage(plan.read_bytes())
    plan.write_bytes(damaged)
    output = [] if verb == "report" else ["-o", "out"]
    arguments = ["sweep", "s.yaml"] if verb == "sweep" else [verb, "run", *output]
    is_mistake(call(*arguments), "plan.json")
    assert plan.read_bytes() == damaged
