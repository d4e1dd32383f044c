"""``workbench promote``: what competes, what comes of it, and what is refused in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Call
from emit_runs import run_of, simulated_run, study

import tuning
import workbench
from sim import load_gpu
from tiles.kernels.gemm import GemmConfig
from tiles.problems import parse_problem
from tuning.promotion.contest import Contender, Status
from workbench.promotion_sources import contests_of, open_source
from workbench.promotions import SCHEMA

#: Sweeps, packages and worker processes take seconds; tests/tuning has the decisions by default.
pytestmark = pytest.mark.slow

LARGE, SMALL = "gemm:4096x4096x4096:e4m3-row:bf16", "gemm:16x256x512:e4m3-row:bf16"


def _worse(folder: Path, problem: str, family: str = "triton_gemm") -> None:
    """A run whose fastest configuration is one that the model puts in the middle."""
    plan = tuning.Plan(
        studies=(tuning.StudyPlan(problem=parse_problem(problem), kernel=family),),
        gpu=load_gpu("h200"),
        folder=folder,
        simulate=True,
        strategy=tuning.Strategy.RANDOM,
        max_measurements=1,
        seed=3,
    )
    tuning.run(plan)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``best`` and ``worse`` runs of one problem, and both packages of the worse one."""
    folder = tmp_path_factory.mktemp("promote")
    simulated_run(folder / "best", [(SMALL, "triton_gemm")])
    _worse(folder / "worse", SMALL)
    workbench.emit(folder / "worse", folder / "package", name="promote_pack")
    workbench.emit(folder / "worse", folder / "hub", target="hf-kernels", name="promote-hub")
    return folder


@pytest.fixture(autouse=True)
def _among_the_runs(monkeypatch: pytest.MonkeyPatch, runs: Path) -> None:
    monkeypatch.chdir(runs)


def best_of(folder: Path) -> Any:
    (study,) = tuning.load_run(folder).studies
    assert study.best is not None
    return study.best


@pytest.mark.parametrize("old", ["worse", "package", "hub"])
def test_a_better_entry_is_promoted_and_emission_takes_it(
    call: Call, runs: Path, tmp_path: Path, old: str
) -> None:
    out = tmp_path / "promoted"
    code, printed, err = call("promote", "best", "--over", old, "-o", out, "--on", "sim", "--json")
    assert (code, err) == (0, "")
    report = json.loads(printed)
    assert (report["schema"], report["simulated"], report["min_gain"]) == (SCHEMA, True, 0.03)
    (entry,) = report["entries"]
    assert (entry["status"], entry["holds"]) == ("promoted", "new")
    assert entry["new"]["config"] == best_of(runs / "best").config.to_dict()
    assert entry["old"]["config"] == best_of(runs / "worse").config.to_dict()
    # Simulated times have keys of their own, and nothing says that it was measured.
    for side in (entry["old"], entry["new"]):
        assert (side["measured"], side["measured_before_us"]) == (None, None)
        assert side["simulation"]["time_us"] > 0
    assert entry["simulated_gain"] > 0.03
    assert "measured_gain" not in entry
    stored = json.loads((out / "promotion.json").read_text())
    assert {key: stored[key] for key in report} == report
    assert best_of(out).config == best_of(runs / "best").config
    package = workbench.emit(out, tmp_path / "emitted", name="promoted_pack")
    (shipped,) = json.loads(package.evidence.read_text())["entries"]
    assert shipped["config"] == entry["new"]["config"]
    assert shipped["simulated"]
    # The same command again decides the same.
    code, again, _ = call("promote", "best", "--over", old, "-o", out, "--on", "sim", "--json")
    assert (code, json.loads(again)) == (0, report)


def test_a_worse_entry_is_refused_and_the_table_says_why(
    call: Call, runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    code, printed, _ = call("promote", "package", "--over", "best", "-o", out, "--on", "sim")
    assert code == 0
    assert "simulated, never measured" in printed
    assert "refused" in printed
    assert "not faster by 3 %" in " ".join(printed.split())
    assert printed.rstrip().endswith(str(out))
    assert best_of(out).config == best_of(runs / "best").config


def test_the_same_entry_is_kept(runs: Path, tmp_path: Path) -> None:
    found = workbench.promote(runs / "package", runs / "worse", tmp_path / "out", on="sim")
    (verdict,) = found.verdicts
    assert (verdict.status, verdict.new) == (Status.KEPT, None)


def test_families_of_one_function_compete_for_a_problem(tmp_path: Path) -> None:
    simulated_run(tmp_path / "new", [(LARGE, "hopper_gemm")])
    _worse(tmp_path / "old", LARGE)
    found = workbench.promote(tmp_path / "new", tmp_path / "old", tmp_path / "out", on="sim")
    (verdict,) = found.verdicts
    assert verdict.status is Status.PROMOTED
    kept = {study.kernel: study.best for study in found.run.studies}
    assert kept["triton_gemm"] is None
    assert kept["hopper_gemm"] is not None
    package = workbench.emit(tmp_path / "out", tmp_path / "emitted", name="promoted_family")
    evidence = json.loads(package.evidence.read_text())
    assert [entry["kernel"] for entry in evidence["entries"]] == ["hopper_gemm"]
    (left,) = evidence["not_emitted"]
    assert left["kernel"] == "triton_gemm"
    assert left["reason"].startswith("lost its contest: faster: +")


def test_everything_within_three_per_cent_of_a_new_winner_competes(runs: Path) -> None:
    new = open_source(runs / "best")
    ((_, contenders),) = new.entries.values()
    assert contenders[0].config == best_of(runs / "best").config
    assert {type(one) for one in contenders} == {Contender}
    times = {t.config: t.measurement.time_us for t in tuning.load_run(new.path).studies[0].trials}
    limit = 1.03 * min(times.values())  # type: ignore[type-var]
    near = {config for config, time_us in times.items() if time_us <= limit}  # type: ignore[operator]
    assert {one.config for one in contenders} == near
    (contest,) = contests_of(new, open_source(runs / "worse"), common=False)
    assert contest.old is not None
    assert contest.old.config == best_of(runs / "worse").config


def test_of_a_run_that_mixes_them_measured_entries_compete_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where a package is emitted: a simulated time is nothing to compare a measured one with."""
    (tmp_path / "plan.json").write_text("{}")
    made = run_of(
        study(SMALL, simulated=False, time_us=12.0),
        study(SMALL, family="hopper_gemm", time_us=5.0),
    )
    mixed = replace(made, plan={**made.plan, "cache": "cold", "seed": 0})
    monkeypatch.setattr(tuning, "load_run", lambda path: mixed)
    ((_, held),) = open_source(tmp_path).entries.values()
    assert [(one.kernel, one.before_us) for one in held] == [("triton_gemm", 12.0)]


def test_what_lost_before_the_turns_competes_by_what_it_would_take_in_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    found = study(SMALL, simulated=False, time_us=104.0)
    (lost,) = found.trials
    measurement = replace(lost.measurement, time_us=110.0)
    assert isinstance(lost.config, GemmConfig)
    other = replace(lost.config, num_stages=lost.config.num_stages + 1)
    won = replace(lost, config=other, measurement=measurement)
    made = run_of(replace(found, trials=(replace(lost, outpaced=1.1), won)))
    made = replace(made, plan={**made.plan, "cache": "cold", "seed": 0})
    monkeypatch.setattr(tuning, "load_run", lambda path: made)
    ((_, held),) = open_source(tmp_path).entries.values()
    assert [(one.config, one.before_us) for one in held] == [(other, 110.0)]


def test_problems_of_one_side_alone_are_said_and_lost_by_nobody(
    call: Call, runs: Path, tmp_path: Path
) -> None:
    other = "gemm:16x128x256:e4m3-row:bf16"
    simulated_run(tmp_path / "more", [(SMALL, "triton_gemm"), (other, "triton_gemm")])
    out = tmp_path / "out"
    code, _, err = call("promote", "worse", "--over", tmp_path / "more", "-o", out, "--on", "sim")
    assert (code, err.count("\n")) == (2, 1)
    assert f"worse lacks 1 of the 2 problems of {tmp_path / 'more'} ({other}): sweep" in err
    code, _, err = call("promote", tmp_path / "more", "--over", "worse", "-o", out, "--on", "sim")
    assert f"worse lacks 1 of the 2 problems of {tmp_path / 'more'}" in err
    assert not out.exists()
    found = workbench.promote(
        runs / "worse", tmp_path / "more", out, on="sim", common=True, min_gain="5 %"
    )
    assert [v.status for v in found.verdicts] == [Status.REFUSED, Status.KEPT]
    assert len(tuning.load_run(out).studies) == 2
    added = workbench.promote(
        tmp_path / "more", runs / "worse", tmp_path / "added", on="sim", common=True
    )
    assert [v.reason for v in added.verdicts][1] == "there is no old entry"


def test_mistakes_are_one_line_and_nothing_is_written(
    call: Call, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = Path(shutil.copytree(runs / "package", tmp_path / "edited"))
    with (edited / "src/promote_pack/_gemm.py").open("a") as file:
        file.write("\n")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(runs / "worse", elsewhere)
    plan = json.loads((elsewhere / "plan.json").read_text())
    (elsewhere / "plan.json").write_text(json.dumps(plan | {"cache": "warm"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "out"
    for given, said in (
        ((edited, "--over", "worse"), "_gemm.py is not what EVIDENCE.json recorded (SHA-256"),
        (("best", "--over", "nowhere"), "nowhere does not exist: name a run folder, or a package"),
        (("best", "--over", tmp_path), "holds neither a sweep nor a package"),
        (("best", "--over", elsewhere), "best was timed cold, "),
        (("best", "--over", "worse", "--min-gain", "3"), "min_gain '3': a share below 1, write 3%"),
        (("best", "--over", "worse", "--min-gain", "x%"), "min_gain 'x%': a share below 1"),
        (("best", "--over", "worse", "--on", "moon"), "on 'moon': choose gpu or sim"),
    ):
        code, printed, err = call("promote", *given, "-o", out)
        assert (code, printed, err.count("\n")) == (2, "", 1), err
        assert said in err
        assert not out.exists()
    code, _, err = call("promote", "best", "--over", "worse", "-o", runs / "best", "--on", "sim")
    assert code == 2
    assert "best holds a sweep and no promotion: choose another output" in err


def test_without_a_gpu_a_promotion_has_to_be_simulated(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, _, err = call("promote", "best", "--over", "worse", "-o", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "torch finds no CUDA device" in err
    assert "--on sim" in err


def test_an_interrupt_is_told_and_the_same_command_goes_on(
    call: Call, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tuning.promotion.judging as inside

    out = tmp_path / "out"
    decided = inside.decide

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(inside, "decide", interrupted)
    code, _, err = call("promote", "best", "--over", "worse", "-o", out, "--on", "sim", "--json")
    assert code == 130
    assert "nothing is lost, the same command goes on" in err
    # What is there already is no package yet.
    with pytest.raises(ValueError, match="its promotion is not finished"):
        workbench.emit(out, tmp_path / "emitted")
    monkeypatch.setattr(inside, "decide", decided)
    code, printed, _ = call(
        "promote", "best", "--over", "worse", "-o", out, "--on", "sim", "--json"
    )
    assert (code, json.loads(printed)["entries"][0]["status"]) == (0, "promoted")
    workbench.emit(out, tmp_path / "emitted", name="resumed_pack")


def test_an_unfinished_or_other_promotion_is_neither_emitted_nor_mixed(
    call: Call, runs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    workbench.promote(runs / "best", runs / "worse", out, on="sim")
    code, _, err = call(
        "promote", "best", "--over", "worse", "-o", out, "--on", "sim", "--min-gain", "4%"
    )
    assert code == 2
    assert "out holds another promotion (min_gain differ): choose another output" in err
    code, _, err = call("promote", "package", "--over", "best", "-o", out, "--on", "sim")
    assert "out holds another promotion (contests differ)" in err
    path = out / "promotion.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"finished": False}))
    for given in (("best", "--over", out), (out, "--over", "best")):
        code, _, err = call("promote", *given, "-o", tmp_path / "next", "--on", "sim")
        assert code == 2
        assert "its promotion is not finished: `workbench promote" in err
    with pytest.raises(ValueError, match=r"promotion is not finished: `workbench promote .* goes"):
        workbench.emit(out, tmp_path / "emitted")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"promotion\.json: cut off or corrupt"):
        workbench.emit(out, tmp_path / "emitted")
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"promotion\.json: cannot be read: Is a directory: check"):
        workbench.emit(out, tmp_path / "emitted")


def test_gpus_do_not_mix(runs: Path) -> None:
    new, old = open_source(runs / "best"), open_source(runs / "worse")
    with pytest.raises(ValueError, match=r"best is for h100, .*worse for h200: entries of one"):
        contests_of(replace(new, gpu=load_gpu("h100")), old, common=False)
