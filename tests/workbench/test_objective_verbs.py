"""``sweep --objective energy`` from the command line to what ships of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Call
from emit_runs import run_of, study

import tuning
import workbench
from tuning import Run, StudyRecord
from tuning.energy import Energy
from tuning.objective import Objective
from workbench.deploy.config_targets import write_configs
from workbench.emission.evidence import evidence
from workbench.emission.project import readme_text
from workbench.emission.selection import select
from workbench.promotion_sources import open_source

SWEEP = """
schema: 1
gpu: h200
problems: [{shape: [64, 256, 256]}]
recipes: [int8-row]
kernels: [cuda_quantize]
search: {strategy: exhaustive}
measure: {on: sim}
output: run
"""
GEMM = "gemm:512x4096x4096:e4m3-row:bf16"


@pytest.fixture(autouse=True)
def _sweep_files(empty_folder: Path) -> None:
    (empty_folder / "time.yaml").write_text(SWEEP)
    (empty_folder / "energy.yaml").write_text(SWEEP + "objective: energy\n")
    (empty_folder / "heat.yaml").write_text(SWEEP + "objective: heat\n")


def test_a_simulated_sweep_for_energy_says_so_in_every_column(call: Call) -> None:
    code, out, err = call("sweep", "energy.yaml")
    assert code == 0, err
    assert "SIMULATED: times and energies are the cost model's, least energy" in out
    for column in ("simulated us", "predicted us", "simulated mJ", "predicted mJ"):
        assert f" {column} " in out
    assert "measured" not in out
    assert " mJ" in err


def test_the_option_stands_for_the_key_of_the_file(call: Call) -> None:
    assert call("sweep", "time.yaml", "--objective", "energy").code == 0
    code, out, err = call("sweep", "energy.yaml", "--json")
    assert code == 0, err
    (study,) = json.loads(out)["studies"]
    assert study["objective"] == "energy"
    told = study["predicted"]["energy_mj"]
    assert study["simulated_outcome"]["energy"]["energy_mj"] == told > 0
    assert study["simulated_outcome"]["energy"]["source"] == "simulated"
    assert "measured" not in study


def test_a_sweep_for_time_is_as_it_was(call: Call) -> None:
    code, out, err = call("sweep", "time.yaml", "--json")
    assert code == 0, err
    (study,) = json.loads(out)["studies"]
    assert study["objective"] == "time"
    assert "energy_mj" not in study["predicted"]
    assert "energy" not in study["simulated_outcome"]
    assert "mJ" not in call("sweep", "time.yaml").out


@pytest.mark.parametrize(
    ("first", "then", "told"),
    [
        (["time.yaml"], ["energy.yaml"], "(the objective, time there and energy here, differs)"),
        (["energy.yaml"], ["time.yaml"], "(the objective, energy there and time here, differs)"),
        (
            ["energy.yaml"],
            ["energy.yaml", "--objective", "time"],
            "(the objective, energy there and time here, differs)",
        ),
        ([], ["time.yaml", "--objective", "heat"], "--objective takes time or energy, got 'heat'"),
        ([], ["heat.yaml"], "heat.yaml: objective: "),
    ],
)
def test_what_does_not_go_together_is_one_line_and_exit_code_2(
    call: Call, first: list[str], then: list[str], told: str
) -> None:
    if first:
        assert call("sweep", *first).code == 0
    code, out, err = call("sweep", *then)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]  # behind what is not swept
    assert line.startswith("error: ")
    assert told in line


def test_replay_and_export_speak_of_energy(call: Call, tmp_path: Path) -> None:
    assert call("sweep", "energy.yaml").code == 0
    code, out, err = call("replay", "run", "--seeds", "2", "--strategy", "random")
    assert code == 0, err
    assert out.splitlines()[0].rstrip().endswith(" mJ")
    assert call("export", "run", "one.json").code == 0
    results = json.loads((tmp_path / "one.json").read_text())["results"]
    assert {tuple(result["objectives"]) for result in results} == {("simulated_energy",)}
    assert call("import", "one.json", "--output", "again").code == 0
    assert tuning.load_run(tmp_path / "again").studies == tuning.load_run(tmp_path / "run").studies


def energetic(family: str, time_us: float, energy_mj: float) -> StudyRecord:
    made = study(GEMM, family=family, time_us=time_us, simulated=False)
    (trial,) = made.trials
    energy = Energy(energy_mj=energy_mj, source="counter", launches=1000, seconds=1.0)
    outcome = replace(trial.measurement, energy=energy)
    hot = replace(trial, measurement=outcome, predicted_energy_mj=7.5)
    return replace(made, trials=(hot,), objective=Objective.ENERGY)


@pytest.fixture
def run() -> Run:
    """Of two families the faster one takes more energy."""
    found = run_of(energetic("triton_gemm", 30.0, 8.0), energetic("hopper_gemm", 20.0, 9.0))
    return replace(found, plan={**found.plan, "objective": "energy"})


def test_the_family_with_the_least_energy_ships(run: Run) -> None:
    chosen = select(run)
    assert [entry.study.kernel for entry in chosen.entries] == ["triton_gemm"]
    reasons = [one.reason for one in chosen.left]
    assert "triton_gemm takes less energy: 8.00 mJ against 9.00 mJ" in reasons
    (entry,) = evidence(name="x", package_version="1", chosen=chosen, templates={}, files={})[
        "entries"
    ]
    assert entry["objective"] == "energy"
    assert entry["predicted"]["energy_mj"] == 7.5
    assert entry["measured"]["energy"]["energy_mj"] == 8.0
    assert entry["simulation"] is None


def test_the_text_of_a_package_says_what_was_searched_for(run: Run) -> None:
    timed = run_of(study(GEMM, simulated=False))
    for one, told in ((run, True), (timed, False)):
        chosen = select(one)
        proof = evidence(name="x", package_version="1", chosen=chosen, templates={}, files={})
        text = readme_text("x", chosen.entries, proof)
        assert ("searched for the least energy a launch" in text) is told


def test_evidence_of_times_has_no_energy() -> None:
    chosen = select(run_of(study(GEMM, simulated=False)))
    (entry,) = evidence(name="x", package_version="1", chosen=chosen, templates={}, files={})[
        "entries"
    ]
    assert "objective" not in entry
    assert "energy" not in entry["measured"]
    assert "energy_mj" not in entry["predicted"]


def test_what_goes_by_time_refuses_such_a_run(run: Run, call: Call, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--rows-loss weighs times"):
        select(run, rows_loss=0.1)
    with pytest.raises(ValueError, match="was searched for energy, and tuned files go by time"):
        write_configs(run, "vllm-linear", tmp_path / "vllm")
    assert call("sweep", "energy.yaml").code == 0
    with pytest.raises(ValueError, match="was searched for energy, and contests go by time"):
        open_source(tmp_path / "run")


def test_python_takes_the_objective_too(call: Call, tmp_path: Path) -> None:
    run = workbench.sweep(tmp_path / "time.yaml", output=tmp_path / "run", objective="energy")
    assert run.studies[0].objective is Objective.ENERGY
