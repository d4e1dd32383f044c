"""Processes of runs: in turns, in time, with what broke them; and the command line around them."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from train_gpt_cases import settings, write_files

from bench.train_gpt import worker
from bench.train_gpt.__main__ import main
from bench.train_gpt.folder import RunFolder
from bench.train_gpt.outcome import Outcome, Run, Status, write_outcome
from bench.train_gpt.pool import Place, run_all
from bench.train_gpt.text import gather

#: A process of the tests takes no checkpoint: what does not end by itself is killed.
LATER = 600.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    text = gather([write_files(tmp_path / "text")], limit=10**7, least=1)
    found = RunFolder(tmp_path / "state")
    found.open(settings(text=text.card.to_dict()), text)
    return found


def cpu(processes: int = 4, name: str = "cpu") -> Place:
    return Place(name=name, device="cpu", environment={"PLACE": name}, processes=processes)


def runs(*recipes: str, seeds: int = 1) -> list[Run]:
    return [Run(recipe=name, seed=seed) for seed in range(seeds) for name in recipes]


class Script:
    """Stands for the process of a run: a line of Python, with what it takes to write a result."""

    def __init__(self, lines: str) -> None:
        self.lines = lines

    def __call__(self, folder: Path, run: Run, device: str, until: float) -> list[str]:
        begin = f"run, folder, recipe = {str(run)!r}, {str(folder)!r}, {run.recipe!r}\n"
        tools = (
            "import json, os, pathlib, sys, time\n"
            "def finish(loss):\n"
            "    content = {'schema': 'tile-workbench/train-gpt-run/1', 'recipe': recipe,\n"
            f"        'seed': {run.seed}, 'status': 'finished', 'loss': loss}}\n"
            "    path = pathlib.Path(folder, 'results', run + '.json')\n"
            "    path.with_suffix('.new').write_text(json.dumps(content))\n"
            "    path.with_suffix('.new').rename(path)\n"
        )
        return [sys.executable, "-S", "-E", "-c", begin + tools + self.lines]


def run_in(
    folder: RunFolder, asked: list[Run], script: str, *places: Place, limit_s: float = LATER
) -> list[tuple[Outcome, str | None]]:
    found: list[tuple[Outcome, str | None]] = []
    run_all(
        asked,
        places or [cpu()],
        folder,
        time.time() + limit_s,
        ended=lambda outcome, place: found.append((outcome, place.name if place else None)),
        command=Script(script),
        grace_s=0.0,
    )
    return found


def test_every_run_ends_with_its_outcome_on_one_of_the_devices(folder: RunFolder) -> None:
    script = "finish(2.0 if os.environ['PLACE'] == 'GPU 0' else 3.0)"
    asked = runs("bf16", "jetfire", "int8-row", "fp32")
    found = run_in(folder, asked, script, cpu(2, "GPU 0"), cpu(2, "GPU 1"))
    assert {one.run for one, _ in found} == set(asked)
    assert {one.status for one, _ in found} == {Status.FINISHED}
    for outcome, place in found:
        assert outcome.loss == (2.0 if place == "GPU 0" else 3.0)
    assert {place for _, place in found} == {"GPU 0", "GPU 1"}


def test_what_breaks_leaves_its_last_line_and_the_others_go_on(folder: RunFolder) -> None:
    script = "sys.exit('out of memory') if recipe == 'jetfire' else finish(2.0)"
    found = {one.recipe: one for one, _ in run_in(folder, runs("jetfire", "bf16"), script)}
    assert found["bf16"].status is Status.FINISHED
    assert found["jetfire"].status is Status.FAILED
    assert found["jetfire"].reason == "its process: exit code 1: out of memory"
    assert folder.outcome(found["jetfire"].run) == found["jetfire"]


def test_a_signal_is_told_by_its_number(folder: RunFolder) -> None:
    ((outcome, _),) = run_in(folder, runs("bf16"), "os.kill(os.getpid(), 9)")
    assert outcome.reason == "its process: ended by signal 9"


def test_when_the_time_is_over_nothing_begins_and_what_hangs_is_ended(folder: RunFolder) -> None:
    script = f"time.sleep({LATER})"
    found = run_in(folder, runs("bf16", "jetfire"), script, cpu(1), limit_s=0.5)
    assert [one.status for one, _ in found] == [Status.UNFINISHED] * 2
    reasons = {one.recipe: one.reason for one, _ in found}
    assert "not begun" in reasons["jetfire"]
    assert "did not stop" in reasons["bf16"]


def test_an_unfinished_run_that_is_not_begun_again_keeps_what_it_left(folder: RunFolder) -> None:
    (run,) = runs("bf16")
    earlier = Outcome(recipe="bf16", seed=0, status=Status.UNFINISHED, steps=7, reason="time")
    write_outcome(folder.result(run), earlier)
    assert run_in(folder, [run], "finish(2.0)", limit_s=-1.0) == [(earlier, None)]


def test_other_seeds_begin_behind_a_recipes_first_step(folder: RunFolder) -> None:
    # A first run takes its step some time after it began; the others take theirs when both are
    # there, so one that waited for the other's step would wait for ever.
    script = (
        "here, end = pathlib.Path(folder), time.monotonic() + 120\n"
        "log = open(here / 'order', 'a', buffering=1)\n"
        "log.write('begin ' + run + '\\n')\n"
        "(here / ('at-' + run)).touch()\n"
        "if run == 'jetfire-0':\n"
        "    while not (here / 'at-jetfire-64-1').exists():\n"
        "        time.sleep(0.02)\n"
        "        if time.monotonic() > end: sys.exit('alone')\n"
        "    time.sleep(0.3)\n"
        "elif run == 'jetfire-64-0':\n"
        "    time.sleep(0.3)\n"
        "else:\n"
        "    while not all((here / f'at-{recipe}-{seed}').exists() for seed in (1, 2)):\n"
        "        time.sleep(0.02)\n"
        "        if time.monotonic() > end: sys.exit('alone')\n"
        "log.write('step ' + run + '\\n')\n"
        "(here / 'begun' / run).touch()\n"
        "finish(2.0)\n"
    )
    # jetfire steps last, and must not take the mark of jetfire-64 for its own.
    found = run_in(folder, runs("jetfire", "jetfire-64", seeds=3), script, cpu(8))
    assert {one.status for one, _ in found} == {Status.FINISHED}, found
    order = (folder.path / "order").read_text().splitlines()
    for recipe in ("jetfire", "jetfire-64"):
        step = order.index(f"step {recipe}-0")
        assert step < min(order.index(f"begin {recipe}-{seed}") for seed in (1, 2))


def test_a_worker_stops_in_time_goes_on_and_leaves_no_checkpoint_behind(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = runs("fp32")
    words = [str(folder.path), "fp32", "0"]
    assert worker.main([*words, "--until", "0"]) == 0
    found = folder.outcome(run)
    assert found is not None
    assert (found.status, found.steps) == (Status.UNFINISHED, 0)
    assert folder.checkpoint(run).exists()
    assert not folder.stepped("fp32")
    assert worker.main(words) == 0
    found = folder.outcome(run)
    assert found is not None
    assert (found.status, found.steps) == (Status.FINISHED, 5)
    assert found.environment["versions"]["torch"]
    assert not folder.checkpoint(run).exists()
    assert folder.stepped("fp32")
    assert "fp32-0: step 5, loss" in capsys.readouterr().out


def test_a_recipe_that_the_layers_refuse_is_recorded_with_the_reason(folder: RunFolder) -> None:
    assert worker.main([str(folder.path), "int9", "0"]) == 0
    found = folder.outcome(Run(recipe="int9", seed=0))
    assert found is not None
    assert found.status is Status.REFUSED
    assert "recipe 'int9' does not train here" in found.reason


def test_a_folder_never_mixes_two_settings_or_two_texts(folder: RunFolder, tmp_path: Path) -> None:
    text = gather([tmp_path / "text"], limit=10**7, least=1)
    kept = folder.settings()
    folder.open(kept, text)
    train, held_out = folder.text()
    assert train.tobytes() == text.train.tobytes()
    assert held_out.tobytes() == text.held_out.tobytes()
    with pytest.raises(ValueError, match=r"begun with other settings or another text"):
        folder.open(settings(steps=6, text=kept.text), text)
    (folder.path / "train.bin").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"its text has changed"):
        folder.text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "bf16,int9"], r"--recipes int9: choose among bf16, jetfire"),
        (["--time-limit", "20s"], r"--time-limit 20s: starting and writing take 50 s"),
        (["--time-limit", "soon"], r"a time limit is written 90s, 30m or 2h"),
        (["--width", "100"], r"width 100, 2 heads: a multiple of 128"),
        (["--text", "absent"], r"absent: no such folder"),
        (["--output", "."], r"\.: is a folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "text")
    given = ["--smoke", "--state", str(tmp_path / "s"), "--output", str(tmp_path / "r.json")]
    assert main([*given, "--text", str(tmp_path / "text"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("error: " + message, line)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    "words",
    [["--seeds", "0"], ["--rate", "2"], ["--least-megabytes", "9"], ["--output"], []],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--smoke", *words])


def test_a_dry_run_tells_sizes_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_files(tmp_path / "text")
    assert main(["--smoke", "--dry-run", "--text", str(text), "--state", str(tmp_path / "s")]) == 0
    told = capsys.readouterr().out
    assert "268,160 parameters, 5 steps of 64 tokens; 3 runs" in told
    assert "nats a token (a byte)" in told
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_rehearsal_trains_three_recipes_and_goes_on_with_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output = write_files(tmp_path / "text"), tmp_path / "record.json"
    given = ["--smoke", "--text", str(text), "--state", str(tmp_path / "s")]
    given += ["--output", str(output), "--commit", "abc"]
    assert main([*given, "--recipes", "bf16,jetfire"]) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    assert main(given) == 0
    told = capsys.readouterr().out
    content = json.loads(output.read_text(encoding="utf-8"))
    found = {one["recipe"]: one for one in content["runs"]}
    assert [one["status"] for one in content["runs"]] == ["finished"] * 3
    assert list(found) == ["bf16", "jetfire", "int8-row"]
    assert [found["bf16"], found["jetfire"]] == first["runs"]  # kept, not trained again
    assert len({one["loss"] for one in found.values()}) == 3
    assert found["jetfire"]["backend"] == "reference"
    assert found["jetfire"]["environment"]["versions"]["torch"]
    assert [one["commit"] for one in content["sessions"]] == ["abc", "abc"]
    assert content["settings"]["text"]["train_files"] > 0
    compared = {one["recipe"]: one for one in content["comparisons"]}
    assert compared["jetfire"]["verdict"] == "within"
    assert compared["jetfire"]["differences"] == [
        pytest.approx(found["jetfire"]["loss"] / found["bf16"]["loss"] - 1)
    ]
    assert told.count("finished, 5 steps") == 3
    assert main([*given, "--recipes", "bf16"]) == 0  # asks for less than there is
    kept = json.loads(output.read_text(encoding="utf-8"))["runs"]
    assert {one["recipe"]: one for one in kept} == found
