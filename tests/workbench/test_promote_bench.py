"""Promotion tried out: what competes, a dry run of the very script, and what it refuses."""

import json
from pathlib import Path

import pytest

import bench.promote
from bench.promote import PROBLEMS, SCHEMA, contest_of, main
from sim import load_gpu, price
from tiles.kernels import ConfigTable, kernel
from tuning.promotion.contest import Status


@pytest.mark.parametrize(("text", "family"), PROBLEMS)
def test_one_side_takes_half_as_long_again_by_the_model(text: str, family: str) -> None:
    gpu, one = load_gpu("h200"), kernel(family)
    better, worse = (contest_of(text, family, gpu, better=side) for side in (True, False))
    assert better.old == worse.new[0]
    assert better.new[0] == worse.old
    assert better.old is not None
    table = ConfigTable.of([better.new[0].config, better.old.config])
    good, bad = price(better.problem, one, table, gpu).time_us
    assert bad / good == pytest.approx(1.5, rel=0.1)


def test_a_dry_run_decides_by_the_model_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.promote, "PROBLEMS", PROBLEMS[1:3])
    record = tmp_path / "promote.json"
    assert main(["--dry-run", "--output", str(record)]) == 0
    content = json.loads(record.read_text())
    assert (content["schema"], content["dry_run"]) == (SCHEMA, True)
    told = [(row["new_entry"], row["status"], row["holds"]) for row in content["rows"]]
    assert told == [("better", "promoted", "new")] * 2 + [("worse", "refused", "old")] * 2
    assert all(row["old"]["measured"] is row["new"]["measured"] is None for row in content["rows"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("by the cost model, not measured" in line for line in lines)
    assert "a worse entry refused (as expected), -3" in lines[2]


def test_a_decision_that_is_not_expected_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.promote, "PROBLEMS", PROBLEMS[1:2])
    monkeypatch.setattr(bench.promote, "DIRECTIONS", ((True, Status.REFUSED),))
    assert main(["--dry-run"]) == 1
    assert "a better entry promoted (expected: refused)" in capsys.readouterr().out


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, said in (
        (["--dry-run", "--gpu", "h2"], "unknown gpu 'h2'"),
        (["--dry-run", "--output", str(tmp_path)], "is a folder"),
        (["--dry-run", "--gpu", "a100"], "hopper_gemm cannot serve"),
    ):
        assert main(given) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert said in told
