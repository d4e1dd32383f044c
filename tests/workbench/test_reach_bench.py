"""The script that prints the table of ratios: what it takes of sweeps, checks, times and writes."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, simulated_run, study

import tuning
from bench import kernels as script
from bench.kernels import main, measure, winners
from bench.reach import row_of
from bench.reach_table import Line
from tiles.kernels import Accuracy, Workload, kernel
from tiles.problems import Gemm, parse_problem
from tuning import Run
from workbench.verification.operands import Pattern, draw_pair

H200 = "NVIDIA H200"
SQUARE = "gemm:4096x4096x4096:bf16:bf16"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Folders that hold made-up runs."""

    def given(*made: Run) -> list[Path]:
        by_folder = {Path(f"runs/{index}"): run for index, run in enumerate(made)}
        monkeypatch.setattr(tuning, "load_run", lambda folder: by_folder[Path(folder)])
        return list(by_folder)

    return given


def test_the_fastest_of_all_families_and_runs_wins(runs: Callable[..., list[Path]]) -> None:
    measured = partial(study, SQUARE, simulated=False)
    hopper = kernel("hopper_gemm").default(parse_problem(SQUARE), run_of().gpu.limits)
    folders = runs(
        run_of(measured(time_us=30.0), study("gemm:64x64x64:bf16:bf16", simulated=False)),
        run_of(measured(time_us=20.0, family="hopper_gemm", config=hopper), measured(time_us=25.0)),
        run_of(measured(time_us=1.0, correct=False)),
    )
    found = winners(folders, dry=False, device_name=H200)
    assert {str(problem): (e.study.kernel, e.time_us, f) for problem, (e, f) in found.items()} == {
        SQUARE: ("hopper_gemm", 20.0, "runs/1"),
        "gemm:64x64x64:bf16:bf16": ("triton_gemm", 21.8125, "runs/0"),
    }
    # The interpreter runs Triton's alone.
    dry = winners(folders, dry=True)
    assert dry[parse_problem(SQUARE)][0].time_us == 25.0


def test_simulated_and_foreign_sweeps_are_refused(runs: Callable[..., list[Path]]) -> None:
    folders = runs(run_of(study(SQUARE)))
    with pytest.raises(ValueError, match=f"runs/0: {SQUARE} was simulated.*--device cpu"):
        winners(folders, dry=False, device_name=H200)
    with pytest.raises(ValueError, match="swept for h200, the device is 'NVIDIA L40S'"):
        winners(folders, dry=False, device_name="NVIDIA L40S")


class HostGemm(Workload):
    """Our part played by torch on the CPU."""

    def __init__(self, problem: Gemm, factor: float) -> None:
        self.problem, self.device, self.factor = problem, "cpu", factor
        a, b = draw_pair(problem.shape, problem.recipe, Pattern.RANDOM, script.SEED, "cpu")
        self.a, self.b = a.codes, b.codes

    def launchers(self, config: Any, sets: int) -> list[Callable[[], None]]:
        out = torch.empty(self.problem.m, self.problem.n, dtype=torch.bfloat16)
        return [lambda: torch.matmul(self.a, self.b.T, out=out) for _ in range(sets)]

    def check(self, config: Any) -> Accuracy:
        if self.factor == 0:
            raise RuntimeError("out of memory\nsecond line")
        return Accuracy(
            ok=self.factor == 1, max_error_over_bound=0.1, relative_rms=0.1, reason="C[0, 0] = 7"
        )

    def compile(self, config: Any) -> None:
        raise NotImplementedError

    @property
    def set_bytes(self) -> int:
        return 1024


def lined(text: str = SQUARE, factor: float = 1.0) -> tuple[Line, Any]:
    problem = parse_problem(text)
    row = row_of(problem, None)
    assert row is not None
    line = Line(
        row=row,
        problem=problem,
        kernel="host_gemm",
        config={},
        run="runs/0",
        swept_us=1.0,
        source_sha256="ab",
    )
    family = SimpleNamespace(workload=lambda problem, device, seed: HostGemm(problem, factor))
    return line, SimpleNamespace(kernel=family, best=SimpleNamespace(config=None), gpu=run_of().gpu)


def test_ours_and_the_peers_are_timed_in_turns() -> None:
    line, entry = lined()
    done = measure(line, entry, device="cpu", timed=True)
    assert done.ours is not None
    assert [peer.rival for peer in done.peers] == ["torch.matmul bf16"]
    # The host's clock: the same product on both sides, whatever it is worth.
    assert done.ours.timing == done.peers[0].timing == "host"
    assert done.ratio == done.peers[0].time_us / done.ours.time_us  # type: ignore[operator]
    assert done.ours.iqr_us is not None
    assert done.accuracy is not None
    assert done.accuracy["ok"]
    json.dumps(done.to_dict())


def test_peers_that_refuse_are_kept_with_their_reasons() -> None:
    done = measure(*lined("gemm:64x64x64:e4m3-row:bf16"), device="cpu", timed=False)
    assert (done.ours, done.ratio, done.wrong) == (None, None, "")
    line, entry = lined("gemm:64x64x128:deepseek-fp8:bf16")
    done = measure(line, entry, device="cpu", timed=False)
    assert all(peer.refused for peer in done.peers)
    assert "deep_gemm" in done.peers[1].refused


@pytest.mark.parametrize(
    ("factor", "wrong"), [(0.0, "RuntimeError: out of memory"), (2.0, "C[0, 0] = 7")]
)
def test_nothing_is_timed_after_a_wrong_answer(
    factor: float, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.timing.time_interleaved", pytest.fail)
    done = measure(*lined(factor=factor), device="cpu", timed=True)
    assert done.wrong == wrong
    assert done.ours is None


def test_a_timing_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("tuning.timing.time_interleaved", fails)
    done = measure(*lined(), device="cpu", timed=True)
    assert done.wrong.startswith("timing: RuntimeError: operation not permitted")


def test_without_a_gpu_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "no GPU here: pass --device cpu" in capsys.readouterr().err


def test_a_record_names_its_code_and_replaces_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--output", str(tmp_path / "kernels.json")])
    assert "--output needs --commit" in capsys.readouterr().err
    other = tmp_path / "notes.json"
    other.write_text("{}")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--output", str(other), "--commit", "ab"])
    assert "holds no tile-workbench/kernels" in capsys.readouterr().err
    assert other.read_text() == "{}"


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three problems whose results are made up; the third is interrupted."""
    pairs = [lined(f"gemm:{m}x4096x4096:bf16:bf16") for m in (1, 2, 3)]

    def measured(line: Line, entry: Any, *, device: str, timed: bool) -> Line:
        if line.problem.shape[0] == 3:
            raise KeyboardInterrupt
        return line

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # main sets it for a dry run; undone here
    monkeypatch.setattr(script, "_lines", lambda arguments: pairs)
    monkeypatch.setattr(script, "_header", lambda arguments: {"schema": script.SCHEMA, "stale": []})
    monkeypatch.setattr(script, "measure", measured)


@pytest.mark.usefixtures("planned")
def test_a_run_that_is_cut_short_keeps_what_it_has(tmp_path: Path) -> None:
    output = tmp_path / "kernels.json"
    with pytest.raises(KeyboardInterrupt):
        main(["runs/0", "--device", "cpu", "--output", str(output)])
    record = json.loads(output.read_text())
    assert [line["problem"] for line in record["lines"]] == [
        "gemm:1x4096x4096:bf16:bf16",
        "gemm:2x4096x4096:bf16:bf16",
    ]
    assert record["not_measured"] == ["gemm:3x4096x4096:bf16:bf16"]
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.json"]


@pytest.mark.usefixtures("planned")
def test_no_problem_begins_after_the_time_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["runs/0", "--device", "cpu", "--time-limit", "1e-9"]
    assert main(given) == 0
    assert "3 of 3 problems were not begun" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_checks_winners_and_peers(tmp_path: Path) -> None:
    problems = [SQUARE, "gemm:4096x4096x4096:int8-b128:fp32", "gemm:64x64x64:bf16:bf16"]
    simulated_run(tmp_path / "run", [(text, "triton_gemm") for text in problems])
    output = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "bench.kernels", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right, not timed; torch.matmul bf16") == 2
    record = json.loads(output.read_text())
    assert record["dry"]
    assert record["table"] == []
    # 64x64x64 is none of the table's shapes.
    assert [line["problem"] for line in record["lines"]] == problems[:2]
    assert all(line["accuracy"]["ok"] and line["ours"] is None for line in record["lines"])
