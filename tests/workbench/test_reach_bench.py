"""The script that prints the table of ratios: what it takes of sweeps, checks, times and writes."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from reach_lines import H200, SQUARE, lined

import tuning
from bench import dry_run
from bench.bounds import bound_of
from bench.kernels import main
from bench.measure import SEED, line_of, measure
from bench.pipe_rates import Rate
from bench.reach import ISSUE, PROMOTION, ROWS
from bench.reach_table import Line
from bench.winners import Winner, winners
from sim import load_gpu
from tiles.kernels import Accuracy, Workload, kernel
from tiles.problems import Gemm, parse_problem
from tuning import Run
from tuning.timing import time_interleaved
from workbench.verification.operands import Pattern, draw_pair


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
    assert {str(p): (one.family.name, one.swept_us, one.run) for p, one in found.items()} == {
        SQUARE: ("hopper_gemm", 20.0, "1"),  # a run's name, not the machine's folder
        "gemm:64x64x64:bf16:bf16": ("triton_gemm", 21.8125, "0"),
    }


def test_simulated_and_foreign_sweeps_are_refused(runs: Callable[..., list[Path]]) -> None:
    folders = runs(run_of(study(SQUARE)))
    with pytest.raises(ValueError, match=f"runs/0: {SQUARE} was simulated.*--dry-run"):
        winners(folders, dry=False, device_name=H200)
    with pytest.raises(ValueError, match="swept for h200, the device is 'NVIDIA L40S'"):
        winners(folders, dry=False, device_name="NVIDIA L40S")


class HostGemm(Workload):
    """Our part played by torch on the CPU."""

    def __init__(self, problem: Gemm, factor: float) -> None:
        self.problem, self.device, self.factor = problem, "cpu", factor
        a, b = draw_pair(problem.shape, problem.recipe, Pattern.RANDOM, SEED, "cpu")
        self.a, self.b = a.values.to(torch.bfloat16), b.values.to(torch.bfloat16)

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


def measured(text: str = "gemm:96x64x64:bf16:bf16", factor: float = 1.0, **given: Any) -> Line:
    line, winner = lined(text)
    problem = line.problem
    assert isinstance(problem, Gemm)
    given.setdefault("timer", partial(time_interleaved, l2_bytes=1, device="cpu"))
    return measure(line, winner, lambda: HostGemm(problem, factor), **given)


def test_ours_and_the_peers_are_timed_in_turns() -> None:
    done = measured()
    assert done.ours is not None
    assert [peer.rival for peer in done.peers] == ["torch.matmul bf16"]
    # The host's clock: the same product on both sides, whatever it is worth.
    assert done.ours.timing == done.peers[0].timing == "host"
    assert done.to_dict()["ratios"] == {
        "torch.matmul bf16": done.peers[0].time_us / done.ours.time_us  # type: ignore[operator]
    }
    assert done.ours.iqr_us is not None
    assert done.accuracy is not None
    assert done.accuracy["ok"]
    json.dumps(done.to_dict())


def test_peers_that_refuse_are_kept_with_their_reasons() -> None:
    done = measured("gemm:64x64x128:deepseek-fp8:bf16", timer=dry_run.dry_timer)
    assert all(peer.refused for peer in done.peers)
    assert "deep_gemm" in done.peers[1].refused


def test_bounds_that_are_not_known_say_why() -> None:
    lacking = Rate(stream="conversion", unit="", refused="no such pipe")
    done = measured("gemm:64x64x64:jetfire:int8.b32x32", timer=dry_run.dry_timer, rates=[lacking])
    assert [bound.refused for bound in done.bounds] == ["no rate of conversion, FFMA: no such pipe"]
    assert [peer.rival for peer in done.peers if peer.refused] == ["Jetfire as released, recorded"]


@pytest.mark.parametrize(
    ("factor", "wrong"), [(0.0, "RuntimeError: out of memory"), (2.0, "C[0, 0] = 7")]
)
def test_nothing_is_timed_after_a_wrong_answer(factor: float, wrong: str) -> None:
    done = measured(factor=factor, timer=pytest.fail)
    assert done.wrong == wrong
    assert done.ours is None


def test_a_timing_that_fails_is_told() -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    done = measured(timer=fails)
    assert done.wrong.startswith("timing: RuntimeError: operation not permitted")


def test_a_dry_timer_makes_every_launch_and_gives_no_time() -> None:
    made = []
    launchers = lambda sets: [lambda i=i: made.append(i) for i in range(sets)]  # noqa: E731
    (one, two) = dry_run.dry_timer([(launchers, 1), (launchers, 1)])
    assert made == [0, 1, 0, 1]
    assert math.isnan(one.time_us)
    assert two.timing == "dry, not timed"


def test_a_dry_run_has_a_problem_of_every_row_and_format() -> None:
    pairs = dry_run.defaults()
    assert {row.name for row, _ in pairs} == {row.name for row in ROWS}
    texts = [str(winner.problem) for row, winner in pairs if "quantise" in row.name]
    assert "dequantize:8192x8192:int8.b32x32:bf16" in texts
    assert "quantize:8192x8192:int8.b32x32:bf16" in texts
    for _, winner in pairs:
        fitted = dry_run.fitted(winner)
        assert max(fitted.problem.shape) <= 160 or fitted is winner
        accepted = fitted.family.judge(fitted.problem, fitted.config, fitted.gpu.limits)
        assert type(accepted).__name__ == "Accepted", (fitted.problem, accepted)


def test_without_a_gpu_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "no GPU here: pass --dry-run" in capsys.readouterr().err


def test_a_record_names_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--output", str(tmp_path / "kernels.json")])
    assert "--output needs --commit" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "no RUN: sweep examples/kernels" in capsys.readouterr().err


def test_bounds_of_a_dry_run_are_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "compile_stream", lambda stream: b"")
    problem = parse_problem("dataflow:8192x8192:gelu:int8.b32x32+sr")
    executed, rates = dry_run.dry_executed([problem]), dry_run.dry_rates()
    for name, text in ((PROMOTION, "gemm:64x64x64:jetfire:bf16"), (ISSUE, str(problem))):
        bound = bound_of(name, parse_problem(text), rates, executed)
        assert bound.time_us is not None
        assert math.isnan(bound.time_us)


def test_what_is_compiled_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, winner), *_ = [
        pair for pair in dry_run.defaults() if pair[1].family.name == "hopper_block_gemm"
    ]
    ours = dry_run.open_small(winner)
    monkeypatch.setattr(type(winner.family), "compile_offline", lambda *_: None)
    accuracy = ours.check(winner.config)
    assert accuracy.ok
    assert math.isnan(accuracy.relative_rms)
    assert accuracy.reason.startswith("not compiled")


def test_a_winner_becomes_a_line() -> None:
    problem, gpu = parse_problem(SQUARE), load_gpu("h200")
    family = kernel("triton_gemm")
    config = family.default(problem, gpu.limits)
    winner = Winner(
        problem=problem, family=family, config=config, gpu=gpu, run="kernels", swept_us=2.5
    )
    line = line_of(ROWS[0], winner)
    assert (line.kernel, line.config, line.run) == ("triton_gemm", config.to_dict(), "kernels")
    assert len(line.source_sha256) == 64


@pytest.mark.slow
def test_a_dry_run_checks_kernels_and_peers(tmp_path: Path) -> None:
    output = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "bench.kernels", "--dry-run", "--only", "transpose:"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(output.read_text())
    assert record["dry"]
    (line,) = record["lines"]
    assert line["accuracy"]["ok"]
    # The copy ran, and nothing looks measured.
    assert (line["peers"][0]["rival"], line["peers"][0]["refused"]) == ("device copy", "")
    assert line["ours"]["time_us"] is line["peers"][0]["time_us"] is None
