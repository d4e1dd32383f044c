"""``workbench calibrate`` on the command line, and sweeps that rest on a calibration."""

import json
from pathlib import Path

import pytest
from command_line import Call, is_mistake

import sim
import workbench
from sim.calibration import Calibration
from sim.calibration.file import About, calibration_text
from tiles.problems import parse_problem
from tuning import visible_gpu
from tuning.calibration import run as calibrate_run
from tuning.plan import StudyPlan
from workbench import calibrations

SWEEP = """schema: 1
gpu: h200
problems: [{shape: [64, 512, 512]}]
recipes: [bf16]
kernels: [triton_gemm]
quantize: false
search: {strategy: model, max_measurements: 2}
measure: {on: sim}
"""


def test_without_a_gpu_one_line_says_what_it_needs(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible_gpu, "visible_gpu", lambda: None)
    said = call("calibrate")
    is_mistake(said, "none is visible here", "--simulate")
    assert said.out == ""


@pytest.mark.parametrize(
    ("here", "asked", "said"),
    [
        ("NVIDIA H200", "a100", "the device is 'NVIDIA H200', not a a100"),
        ("NVIDIA T4", None, "no GPU file is known for 'NVIDIA T4': write one"),
    ],
)
def test_another_gpu_is_refused(
    here: str, asked: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visible_gpu, "visible_gpu", lambda: here)
    with pytest.raises(ValueError, match=said):
        workbench.calibrate(gpu=asked)


def test_the_gpu_that_is_here_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visible_gpu, "visible_gpu", lambda: "NVIDIA H200")
    assert calibrations._gpu(None, simulate=False).name == "h200"
    assert calibrations._gpu(None, simulate=True).name == "h200"
    assert calibrations._gpu("a100", simulate=True).name == "a100"


def test_the_command_is_rehearsed_on_a_simulated_machine(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    studies = tuple(
        StudyPlan(problem=parse_problem(f"gemm:{shape}:bf16:bf16"), kernel="hopper_gemm")
        for shape in ("16x4096x4096", "4096x4096x4096", "512x3072x768", "8192x8192x256")
    )
    monkeypatch.setattr(calibrate_run, "design", lambda *_: studies)
    asked = ["calibrate", "--simulate", "--timings", "16", "--folder", "run"]
    answer = call(*asked)
    assert answer.code == 0
    printed = answer.out
    assert "SIMULATED machine, NVIDIA H200" in printed
    assert "12 of 12 timings in " in printed
    assert printed.splitlines()[-1] == "run/calibration.json"
    answer = call(*asked, "--json")
    assert answer.code == 0
    said = json.loads(answer.out)
    assert said["schema"] == "tile-workbench/calibrate/1"
    assert said["timings"] == {"planned": 12, "measured": 12, "failed": {}}
    assert {one["status"] for one in said["microbenchmarks"]} == {"correct"}
    # It is nobody's own: only who names it predicts with it.
    assert workbench.predict(shapes=["64x512x512"], recipes=["bf16"]).calibration == ()
    named = workbench.predict(
        shapes=["64x512x512"], recipes=["bf16"], calibration="run/calibration.json"
    )
    assert named.calibration[0].startswith("calibration: SIMULATED machine, ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--seed", "-1"), "seed = -1: must lie in 0..2^32-1"),
        (("--seed", str(2**32)), "seed = 4294967296: must lie in 0..2^32-1"),
        (("--folder", "file"), "file/calibration.json: cannot be written: Not a directory"),
        (("--folder", "file", "--output", "c.json"), "file: cannot be used: Not a directory"),
        (("--output", "/proc/nowhere/c.json"), "cannot be written: No such file or directory"),
        (("--folder", "package"), "package holds 'EVIDENCE.json' and no calibration: name another"),
    ],
)
def test_a_calibration_that_cannot_be_kept_measures_nothing(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "EVIDENCE.json").touch()

    def measured(*_: object, **__: object) -> None:
        pytest.fail("a microbenchmark ran")

    monkeypatch.setattr(calibrate_run, "_microbenchmarks", measured)
    is_mistake(call("calibrate", "--simulate", "--timings", "16", *arguments), says)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["EVIDENCE.json", "file", "package"]


def slow_memory(path: Path, factor: float) -> Path:
    """A calibration of a board whose memory and launches are slow."""
    gpu = sim.load_gpu("h200")
    calibration = Calibration(
        base=gpu,
        figures={"graph_launch_us": gpu.graph_launch_us * factor},
        templates={},
        families={},
        title=f"a board {factor} times as slow to launch",
    )
    about = About(
        device="NVIDIA H200",
        driver="580",
        versions={},
        made="2026-11-22",
        simulated=False,
        measured={},
        microbenchmarks=[],
        timings={},
    )
    path.write_text(calibration_text(calibration, about, {}, []))
    return path


def test_a_sweep_keeps_the_calibration_that_it_began_with(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    slow = slow_memory(tmp_path / "slow.json", 3.0)

    def predicted(folder: str, **options: object) -> float:
        done = workbench.sweep(file, output=tmp_path / folder, **options)  # type: ignore[arg-type]
        return done.studies[0].trials[0].predicted_us

    plain = predicted("plain")
    calibrated = predicted("calibrated", calibration=slow)
    assert calibrated == pytest.approx(plain + 2 * 1.34)
    kept = tmp_path / "calibrated" / "calibration.json"
    assert kept.read_text() == slow.read_text()
    slow.unlink()
    monkeypatch.chdir(tmp_path)
    answer = call("sweep", "sweep.yaml", "--output", "calibrated")
    assert answer.code == 0
    said = answer.out.splitlines()
    assert "calibration: a board 3.0 times as slow to launch" in said
    answer = call("sweep", "sweep.yaml", "--output", "plain")
    assert answer.code == 0
    assert "calibration" not in answer.out
    assert predicted("calibrated", max_measurements=3) == calibrated
    other = slow_memory(tmp_path / "other.json", 2.0)
    for folder in ("calibrated", "plain"):
        with pytest.raises(ValueError, match=r"holds another sweep \(the calibration differs\)"):
            predicted(folder, calibration=other)
    with pytest.raises(ValueError, match=r"holds another sweep \(the calibration differs\)"):
        predicted("calibrated", calibration="none")


def test_a_shared_sweep_takes_no_calibration(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    with pytest.raises(ValueError, match="in a shared storage takes no calibration: leave it out"):
        workbench.sweep(
            file,
            storage="postgresql://host/db",
            study="s",
            calibration=slow_memory(tmp_path / "c.json", 2.0),
        )
