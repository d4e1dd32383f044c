"""Replay, export and import through the command line."""

import gzip
import json
from pathlib import Path

import pytest
from command_line import Call, is_mistake

import workbench
from sim.measured_file import read_measured

DATA = Path(__file__).parents[2] / "data" / "h200"

SWEEP = """
schema: 1
gpu: h200
problems: [{shape: [64, 256, 256]}, {shape: [128, 256, 256]}]
recipes: [int8-row]
kernels: [cuda_quantize]
search: {strategy: exhaustive}
measure: {on: sim}
output: run
"""
PROBLEM = "quantize:128x256:int8.row:bf16"

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of every legal configuration, simulated."""
    made = tmp_path_factory.mktemp("exhaustive")
    (made / "sweep.yaml").write_text(SWEEP)
    workbench.sweep(made / "sweep.yaml", output=made / "run")
    return made / "run"


def test_replay_prints_a_table_a_study_and_one_of_all(call: Call, folder: Path) -> None:
    code, out, err = call("replay", folder, "--seeds", "2", "--max-measurements", "12")
    assert code == 0, err
    assert out.count("SIMULATED: times are the cost model's") == 2
    assert "all 2 studies" in out
    assert "median (p10-p90) of 2 seeds" in out
    for strategy in ("hybrid", "model", "tpe", "random"):
        assert out.count(f"│ {strategy} ") == 3


def test_replay_says_what_has_changed_since(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("replay", folder, "--strategy", "random", "--seeds", "1", "--problem", PROBLEM)
    assert "stale" not in call(*arguments).out
    assert json.loads(call(*arguments, "--json").out)["stale"] == []
    monkeypatch.setattr("tuning.staleness.source_digest", lambda template: "another")
    line = f"{PROBLEM} with cuda_quantize: the source of cuda_quantize changed"
    code, out, err = call(*arguments)
    assert code == 0, err
    assert out.startswith(f"stale: {line}\n")
    assert out.count("stale") == 1
    assert json.loads(call(*arguments, "--json").out)["stale"] == [line]


def test_replay_reads_t4_files_packed_or_not(call: Call, folder: Path, tmp_path: Path) -> None:
    assert call("export", folder, "plain").code == 0
    plain = sorted((tmp_path / "plain").iterdir())
    (tmp_path / "packed").mkdir()
    for file in plain:
        packed = tmp_path / "packed" / f"{file.name}.gz"
        packed.write_bytes(gzip.compress(file.read_bytes()))
    arguments = ("--strategy", "random", "--seeds", "2", "--json")
    code, out, err = call("replay", folder, *arguments)
    assert code == 0, err
    wanted = json.loads(out)["studies"]
    for form in ("plain", "packed"):
        found = json.loads(call("replay", form, *arguments).out)
        assert found["study"] == form
        assert found["studies"] == wanted
        assert call("import", form, "--output", f"run-{form}").code == 0
    alone = json.loads(call("replay", plain[0], *arguments).out)
    assert alone["studies"] == wanted[:1]


def test_half_a_packed_file_is_one_line(call: Call, folder: Path, tmp_path: Path) -> None:
    assert call("export", folder, "half.json", "--problem", PROBLEM).code == 0
    packed = gzip.compress((tmp_path / "half.json").read_bytes())
    (tmp_path / "half.json.gz").write_bytes(packed[: len(packed) // 2])
    answer = call("replay", "half.json.gz")
    is_mistake(answer, "error: half.json.gz: is no whole gzip file")
    assert answer.out == ""


def test_replay_answers_machines_and_writes_a_file(
    call: Call, folder: Path, tmp_path: Path
) -> None:
    code, out, err = call(
        "replay", folder, "--strategy", "random", "--strategy", "model", "--seeds", "3", "--json",
        "--problem", PROBLEM, "--output", "found/replay.json",
    )  # fmt: skip
    assert code == 0, err
    printed = json.loads(out)
    assert printed == json.loads((tmp_path / "found" / "replay.json").read_text())
    assert printed["schema"] == "tile-workbench/replay/1"
    (study,) = printed["studies"]
    assert study["problem"] == PROBLEM
    assert list(study["strategies"]) == ["random", "model"]
    assert len(study["strategies"]["model"]["median"]) == 32


def test_a_run_goes_through_files_and_back(call: Call, folder: Path, tmp_path: Path) -> None:
    import tuning

    code, out, err = call("export", folder, "files", "--to", "t4")
    assert code == 0, err
    paths = [tmp_path / line for line in out.splitlines()]
    assert [path.name[:4] for path in paths] == ["000_", "001_"]
    code, out, err = call("import", *paths, "--output", "back")
    assert code == 0, err
    run, back = tuning.load_run(folder), tuning.load_run(tmp_path / "back")
    assert out == f"{sum(len(study.trials) for study in run.studies)} configurations in back\n"
    assert back.studies == run.studies
    code, out, err = call("export", folder, "one.json", "--problem", PROBLEM)
    assert (code, out) == (0, "one.json\n"), err
    assert (tmp_path / "one.json").read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay", "absent"), "absent: no such run folder"),
        (("replay", "{run}", "--strategy", "hybird"), "did you mean 'hybrid'?"),
        (("replay", "{run}", "--seeds", "0"), "seeds = 0: must lie in 1..10000"),
        (("replay", "{run}", "--seeds", "many"), "'many' is not a valid int"),
        (("replay", "{run}", "--max-measurements", "-1"), "max_measurements = -1"),
        (("replay", "{run}", "--problem", "x"), "has no study of 'x': choose one of quantize:"),
        (("replay", "{run}", "--output", "{run}"), "is a folder: name a file in it"),
        (("replay", ""), "the path is empty"),
        (("replay", "{part}"), "3 of 225 legal configurations were measured: finish a sweep"),
        (("replay", "{part}", "--sample"), "chosen by model, which is no fair sample"),
        (("export", "absent", "a.json"), "absent: no such run folder"),
        (("export", "{run}", "a.json"), "holds 2 studies, a T4 file one: choose with --problem"),
        (("export", "{run}", "a.json", "--to", "t1"), "--to takes t4 or parquet, got 't1'"),
        (("export", "{run}", "a.json", "--problem", "x"), "has no study of 'x': choose one of"),
        (("export", "{run}", "a.json", "--kernel", "y"), "has no study of 'y'"),
        (("import", "absent.json", "--output", "b"), "absent.json: cannot be read"),
        (("import", "{run}/plan.json", "--output", "b"), "plan.json: results: this key is missing"),
        (("import", "{run}", "--output", "b"), "holds no T4 file, NAME.t4.json or"),
        (("import", "{run}/gpu.yaml", "--output", "b"), "give a T4 file, as workbench export"),
    ],
)
def test_mistakes_are_one_line(
    call: Call, folder: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    part = tmp_path / "part"
    if "{part}" in arguments:
        (tmp_path / "part.yaml").write_text(
            SWEEP.replace("strategy: exhaustive", "strategy: model, max_measurements: 3")
        )
        workbench.sweep(tmp_path / "part.yaml", output=part)
    answer = call(*(one.format(run=folder, part=part) for one in arguments))
    is_mistake(answer, says)
    assert answer.out == ""
    assert not (tmp_path / "a.json").exists()
    assert not (tmp_path / "b").exists()


def test_a_measured_run_is_exported_as_a_data_set(call: Call, tmp_path: Path) -> None:
    run, into = DATA / "replay" / "hopper_gemm", tmp_path / "set"
    problem = "gemm:128x7168x2048:int8-b128:bf16"
    code, out, err = call("export", run, into, "--to", "parquet", "--problem", problem)
    assert code == 0, err
    assert out.split() == [str(into / "measurements.parquet"), str(into / "CARD.md")]
    (table,) = read_measured(into / "measurements.parquet")
    assert (str(table.problem), len(table), table.whole_space) == (problem, 20, True)
    card = (into / "CARD.md").read_text()
    assert card.startswith("# hopper_gemm: 20 configurations on h200")
    assert f"| {problem} with hopper_gemm | 20 | yes | 8.3 | 1.20 |" in card
    assert "strategy exhaustive, cold L2" in card
    assert "driver 580.159.04" in card
    (into / "CARD.md").write_text("mine")
    assert call("export", run, into, "--to", "parquet")[:2] == (0, f"{into}/measurements.parquet\n")
    assert (into / "CARD.md").read_text() == "mine"
    assert len(read_measured(into / "measurements.parquet")) == 8


def test_a_data_set_is_of_measured_times_and_has_a_folder_of_its_own(
    call: Call, folder: Path, tmp_path: Path
) -> None:
    code, _, err = call("export", folder, tmp_path / "set", "--to", "parquet")
    assert (code, "is a simulated sweep, its times are the cost model's" in err) == (2, True)
    run = DATA / "replay" / "hopper_gemm"
    code, _, err = call("export", run, folder, "--to", "parquet")
    assert (code, "holds a sweep: choose a folder of its own" in err) == (2, True)
