"""Targets of emit: one interface, one line each; a mistake is one line and writes nothing."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from command_line import Answer, Call, is_mistake
from emit_runs import run_of, simulated_run, study

import workbench
from tuning import Run
from workbench.emission import targets
from workbench.emission.emitted import EmittedFiles
from workbench.emission.t4_files import write
from workbench.emission.targets import TARGETS, Target, target

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Run:
    shapes = ("64x256:int8.b32x32", "128x256:int8.b32x32")
    problems = [(f"quantize:{shape}:bf16", "triton_quantize") for shape in shapes]
    return simulated_run(tmp_path_factory.mktemp("run") / "sweep", problems)


def _writes_nothing(answer: Answer, message: str) -> None:
    is_mistake(answer, message)
    assert answer.out == ""
    assert list(Path().iterdir()) == []


def test_help_lists_every_target(call: Call) -> None:
    code, out, _ = call("emit", "--help")
    assert code == 0
    words = " ".join(out.split())
    for one in TARGETS.values():
        assert f"{one.name}: {one.description}." in words


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("hf-kernel", "unknown target 'hf-kernel': did you mean 'hf-kernels'? choose from wheel,"),
        ("", "unknown target '': choose from wheel, hf-kernels, kernel-tuner-t4"),
        ("../wheel\n", "unknown target '../wheel"),
    ],
)
def test_an_unknown_target_is_told_with_what_there_is(
    asked: str, message: str, sweep: Run, call: Call
) -> None:
    _writes_nothing(call("emit", sweep.folder, "-o", "out", "--target", asked), message)
    with pytest.raises(ValueError, match="unknown target"):
        workbench.emit(sweep.folder, "out", target=asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--target", "kernel-tuner-t4", "--name", "x"),
            "--target kernel-tuner-t4 takes no --name: leave it out (it takes --problem, --kernel)",
        ),
        (("--repo-id", "a/b"), "--target wheel takes no --repo-id: leave it out"),
        (("--rows-loss", "2%", "--target", "kernel-tuner-t4"), "takes no --rows-loss"),
        (("--rows-loss", "200%"), "is 100 % or more"),
        (("--rows-loss", "-1%"), "is no share"),
        (("--rows-loss", "two"), "'two' is no share: write e.g. 2% or 0.02"),
        (("--rows-loss", "nan"), "is no share"),
        (
            ("--target", "hf-kernels", "--name", "tile_gemm"),
            "kernel name 'tile_gemm': write 2 to 41 of a-z, 0-9 and -, a letter first, no - last, "
            "e.g. tile-gemm",
        ),
        (("--target", "hf-kernels", "--repo-id", "mine"), "--repo-id 'mine': write OWNER/NAME"),
    ],
)
def test_an_option_that_does_not_fit_is_a_mistake(
    arguments: tuple[str, ...], message: str, sweep: Run, call: Call
) -> None:
    _writes_nothing(call("emit", sweep.folder, "-o", "out", *arguments), message)


def test_a_wheel_is_what_emit_writes_by_default(sweep: Run, call: Call) -> None:
    code, out, _ = call("emit", sweep.folder, "-o", "plain", "--name", "tile_pack")
    wheel = Path("plain/dist/tile_pack-0.1.0-py3-none-any.whl")
    assert (code, out) == (0, f"package plain\nwheel   {wheel}\n")
    named = ("emit", sweep.folder, "-o", "named", "--name", "tile_pack", "--target", "wheel")
    code, out, _ = call(*named, "--json")
    assert json.loads(out)["schema"] == "tile-workbench/emitted/1"
    assert wheel.read_bytes() == Path("named/dist", wheel.name).read_bytes()


def test_t4_files_are_those_of_export(sweep: Run, call: Call) -> None:
    code, out, _ = call("emit", sweep.folder, "-o", "emitted", "--target", "kernel-tuner-t4")
    assert code == 0
    assert call("export", sweep.folder, "exported").code == 0
    names = sorted(path.name for path in Path("exported").iterdir())
    assert len(names) == 2
    assert out.splitlines() == [f"emitted/{name}" for name in names]
    for name in names:
        assert Path("emitted", name).read_bytes() == Path("exported", name).read_bytes()
    one = ("--problem", str(sweep.studies[0].problem), "--json")
    target_file = ("-o", "one.json", "--target", "kernel-tuner-t4")
    code, out, _ = call("emit", sweep.folder, *target_file, *one)
    assert json.loads(out) == {
        "schema": "tile-workbench/emitted-files/1",
        "target": "kernel-tuner-t4",
        "files": ["one.json"],
    }


def test_one_bad_study_takes_no_t4_file_from_the_others(sweep: Run, call: Call) -> None:
    assert call("export", sweep.folder, "whole").code == 0
    first, second = sorted(Path("whole").iterdir())
    Path("part").mkdir()
    foreign = Path("part", first.name)
    foreign.write_text("{}")
    code, out, err = call("export", sweep.folder, "part")
    assert (code, out, err.count("\n")) == (2, "", 1)
    problem = sweep.studies[0].problem
    assert f"1 of 2 studies are in part, not {problem} with triton_quantize: " in err
    assert foreign.read_text() == "{}"
    assert Path("part", second.name).read_bytes() == second.read_bytes()
    # A time that JSON has no number for.
    trial = sweep.studies[1].trials[0]
    spoilt = replace(sweep.studies[1], trials=(replace(trial, predicted_us=math.nan),))
    run = replace(sweep, studies=(sweep.studies[0], spoilt, replace(sweep.studies[0], kernel="x")))
    with pytest.raises(ValueError, match=r"^2 of 3 studies are in third, not quantize:128x256"):
        write(run, Path("third"))
    assert len(list(Path("third").iterdir())) == 2


@pytest.mark.parametrize("as_object", [False, True])
def test_a_target_is_one_line(
    as_object: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(run: Run, output: Path, *, dtype: str = "") -> list[Path]:
        output.write_text(f"{len(run.studies)} {dtype}")
        return [output]

    module: Any = ModuleType("made_up_targets")
    module.write = write
    module.OBJECT = SimpleNamespace(write=write)
    monkeypatch.setitem(sys.modules, "made_up_targets", module)
    home = "made_up_targets:OBJECT" if as_object else "made_up_targets"
    made = Target(name="made-up", description="a file", home=home, options=("dtype",))
    monkeypatch.setitem(targets.TARGETS, "made-up", made)
    run = run_of(study("gemm:64x96x128:bf16:bf16"))
    path = tmp_path / "file"
    done = target("made-up").write(run, path, dtype="fp8", name=None)
    assert done == EmittedFiles(target="made-up", files=(path,))
    assert path.read_text() == "1 fp8"
    assert done.lines() == [str(path)]


def test_every_target_has_a_home_that_writes() -> None:
    for one in TARGETS.values():
        module, _, attribute = one.home.partition(":")
        home = __import__(module, fromlist=["write"])
        assert callable((getattr(home, attribute) if attribute else home).write), one.name


@pytest.mark.parametrize("output", ["file/x", "/proc/nowhere/x"])
def test_what_cannot_be_written_leaves_nothing(
    output: str, sweep: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(ValueError, match="free space or choose another output"):
        workbench.emit(sweep.folder, output, target="hf-kernels")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("file").read_text() == "mine"
