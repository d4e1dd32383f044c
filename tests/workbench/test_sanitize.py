"""The script that runs every kernel under compute-sanitizer, the tool played by a shell script."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_runs import ENVIRONMENT

from bench import sanitize
from bench.sanitize import errors_of, main
from bench.sanitize_cases import cases
from sim import load_gpu
from tiles.kernels import Accepted, kernel, kernels
from tiles.problems import parse_problem

#: Errors as the tools count them; the second case of a batch is bad, the third never ends.
TOOL = """#!/bin/sh
[ "$1" = --version ] && { echo "NVIDIA (R) Compute Sanitizer"; echo "Version 2025.3"; exit 0; }
for last; do :; done
echo "========= COMPUTE-SANITIZER"
case "$(cat "$last")" in
  *gelu-bwd*) echo "========= Invalid __global__ read of size 4"; echo "$SUMMARY"; exit 1 ;;
  *silu*) echo "out of memory" >&2; exit 3 ;;
  *) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bin" / "compute-sanitizer"
    path.parent.mkdir()
    path.write_text(TOOL)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("SUMMARY", "========= ERROR SUMMARY: 2 errors")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("tuning.environment.read_environment", lambda device: ENVIRONMENT)


def test_every_family_has_cases_that_are_legal() -> None:
    gpu = load_gpu("h200")
    every = cases(gpu)
    assert {case.kernel for case in every} == set(kernels())
    assert len({(case.kernel, case.problem) for case in every}) == len(every)
    for case in every:
        family = kernel(case.kernel)
        config = family.config_type.from_dict(case.config)
        assert isinstance(family.judge(parse_problem(case.problem), config, gpu.limits), Accepted)
    texts = {case.problem for case in every}
    for part in (":transposed", ":swizzled", "gathered.2", ":kn:", "+sr", "nvfp4", "int8.b64x64"):
        assert any(part in text for text in texts), part


@pytest.mark.parametrize(
    ("said", "errors"),
    [
        ("========= ERROR SUMMARY: 0 errors\n", 0),
        ("========= ERROR SUMMARY: 1 error\n", 1),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", 0),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (2 errors, 1 warning)\n", 2),
        ("========= COMPUTE-SANITIZER\n", None),
    ],
)
def test_the_tools_summaries_are_read(said: str, errors: int | None) -> None:
    assert errors_of(said) == errors


@pytest.mark.usefixtures("tool")
def test_a_batch_that_is_not_clean_is_taken_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sanitize.json"
    given = ["--families", "cuda_dataflow_blocks", "--tools", "memcheck", "--jobs", "2"]
    assert main([*given, "--commit", "ab", "--output", str(output)]) == 1
    record = json.loads(output.read_text())
    assert record["tool"] == "Version 2025.3"
    outcomes: dict[str, Any] = {}
    for one in record["outcomes"]:
        outcomes[one["case"]["problem"].removeprefix("dataflow:200x272:")] = one
    assert len(outcomes) == 18
    assert (outcomes["gelu:int8.b32x32"]["errors"], outcomes["gelu:int8.b32x32"]["reason"]) == (
        0,
        "",
    )
    assert outcomes["gelu-bwd:int8.b32x32"]["errors"] == 2
    assert "Invalid __global__ read" in outcomes["gelu-bwd:int8.b32x32"]["report"]
    assert outcomes["silu:int8.b32x32"]["errors"] is None
    assert outcomes["silu:int8.b32x32"]["reason"] == "exit code 3: out of memory"
    assert "gelu-bwd:int8.b32x32: 2 errors" in capsys.readouterr().out
    # The same command has nothing left to run.
    assert main([*given, "--commit", "ab", "--output", str(output)]) == 1
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--commit", "cd", "--output", str(output)])
    assert "outcomes of commit ab: choose another output" in capsys.readouterr().err


@pytest.mark.usefixtures("tool")
def test_no_process_begins_after_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--families", "triton_transpose", "--tools", "synccheck", "--time-limit", "1e-9"]
    assert main(given) == 1
    assert "1 cases were not begun" in capsys.readouterr().out


def test_a_case_that_does_not_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "compute-sanitizer"
    path.write_text("#!/bin/sh\nsleep 60 & wait\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sanitize, "START_S", 0.0)
    (case,) = cases(load_gpu("h200"), ["triton_transpose"])
    (found,) = sanitize._outcomes("memcheck", [case], 0.2, tmp_path)
    assert (found.errors, found.reason) == (None, "it took longer than 0 s")


def test_without_the_tool_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err == (
        "bench.sanitize: compute-sanitizer is missing: it comes with the CUDA toolkit; see --list\n"
    )
