"""Lookups judged by a sweep, and configurations that another Triton made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from measured_studies import EXPERTS, PLAIN, linear, mixture, run_of, study
from tuned_folders import BODY, FP8, MOE_SPACED, write

import workbench.shared
from tuning import Run
from workbench.deploy.config_targets import write_configs
from workbench.deploy.lint import lint

WIDE = replace(PLAIN, block_m=128, num_warps=8)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """At M 96 the row of 64 is 10 % slower than another entry, at 128 only 4 %."""
    made = run_of(
        linear(64, [(PLAIN, 30.0), (WIDE, 40.0)]),
        linear(96, [(PLAIN, 44.0), (WIDE, 40.0), (replace(PLAIN, tma=True), 20.0)]),
        linear(128, [(PLAIN, 52.0), (WIDE, 50.0)]),
        linear(4096, [(replace(PLAIN, num_stages=4), 900.0)]),
    )
    monkeypatch.setattr(workbench.shared, "load_study", lambda *_: made)
    return made


def test_a_lookup_that_loses_more_than_five_percent_is_told(run: Run, tmp_path: Path) -> None:
    write_configs(run_of(linear(64, [(PLAIN, 30.0)])), "vllm-linear", tmp_path)
    report = lint(tmp_path, run="run")
    (finding,) = report.findings
    assert finding.rule == "lookup.loss"
    assert finding.message == (
        "M 96 takes row 64: 44.00 us measured, 10.0 % slower than 40.00 us with BLOCK_SIZE_M=128 "
        "BLOCK_SIZE_N=128 BLOCK_SIZE_K=128 GROUP_SIZE_M=8 num_warps=8 num_stages=3: add M 96"
    )
    # What the row would take at 4096 was not measured.
    assert report.lookups == (3, 4)
    assert report.summary.endswith("; 3 of 4 lookups judged by measurements")


def test_a_folder_of_the_sweeps_own_rows_is_silent(run: Run, tmp_path: Path) -> None:
    write_configs(run, "vllm-linear", tmp_path)
    report = lint(tmp_path, run="run")
    assert report.findings == ()
    assert report.lookups == (4, 4)


@pytest.mark.parametrize("fix", [False, True])
def test_simulated_times_are_no_measurements(
    fix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "gemm:64x4096x7168:deepseek-fp8:bf16"
    made = run_of(study(problem, [(PLAIN, 30.0), (WIDE, 40.0)], simulated=True))
    monkeypatch.setattr(workbench.shared, "load_study", lambda *_: made)
    write_configs(made, "vllm-linear", tmp_path)
    report = lint(tmp_path, run="run", fix=fix)
    assert report.summary.endswith("; 1 of 1 lookups judged by simulated times")
    assert report.to_dict()["lookups"] == {"judged": 1, "all": 1, "simulated": True}


def test_a_row_that_was_beaten_at_its_own_m_is_told(run: Run, tmp_path: Path) -> None:
    write_configs(run_of(linear(64, [(WIDE, 30.0)])), "vllm-linear", tmp_path)
    (finding,) = lint(tmp_path, run="run").findings
    assert "M 64 takes row 64: 40.00 us measured, 33.3 % slower" in finding.message
    assert finding.message.endswith(": tune it again")


def test_other_shapes_and_devices_are_not_judged(run: Run, tmp_path: Path) -> None:
    write(tmp_path, {FP8.replace("N=4096", "N=2048"): BODY, FP8.replace("H200", "H20"): BODY})
    report = lint(tmp_path, run="run")
    assert (report.findings, report.lookups) == ((), (0, 0))


def test_experts_are_judged_in_the_folder_of_their_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(EXPERTS, num_stages=2)
    made = run_of(mixture(16, 1024, 7168, 8, [(EXPERTS, 40.0), (slow, 60.0)]))
    monkeypatch.setattr(workbench.shared, "load_study", lambda *_: made)
    write_configs(made, "sglang-moe", tmp_path)
    name = f"triton_3_7_0/{MOE_SPACED}"
    content = json.loads((tmp_path / "triton_3_6_0" / MOE_SPACED).read_text())
    content["16"]["num_stages"] = 2
    write(tmp_path, {name: content})
    assert lint(tmp_path, run="run").findings == ()
    (tmp_path / "triton_3_6_0" / MOE_SPACED).unlink()
    (finding,) = lint(tmp_path, run="run").findings
    assert (finding.rule, str(finding.path)) == ("lookup.loss", name)


def test_another_triton_is_told_once_a_file_by_the_newest_that_is_there(tmp_path: Path) -> None:
    folders = ("triton_3_5_1", "triton_3_6_0")
    write(tmp_path, {f"{folder}/{MOE_SPACED}": BODY for folder in folders})
    assert lint(tmp_path, triton="3.6.0").findings == ()
    (finding,) = lint(tmp_path, triton="3.7.0").findings
    assert finding.rule == "version.other"
    assert finding.message.startswith(
        "tuned with Triton 3.6.0, 3.7.0 runs (no file in triton_3_7_0"
    )
