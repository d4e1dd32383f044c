"""Runs and packages that the tests of emission and verification share."""

import json
from collections.abc import Sequence
from pathlib import Path

import tuning
from sim import load_gpu
from tiles.kernels import Accuracy, Status, TileConfig, kernel, kernels
from tiles.kernels.closure import source_digest
from tiles.problems import parse_problem
from tuning import Environment, Measurement, Run, StudyRecord, TrialRecord
from workbench.emission import build_wheel
from workbench.emission.evidence import EVIDENCE, digests

ENVIRONMENT = Environment(
    gpu="NVIDIA H200", driver="580.1", sm_clock_mhz=1500, versions={"triton": "3.6.0"}
)


def simulated_run(folder: Path, problems: Sequence[tuple[str, str]]) -> Run:
    """A real simulated sweep of (problem, kernel family), two trials a study."""
    plan = tuning.Plan(
        studies=tuple(
            tuning.StudyPlan(problem=parse_problem(problem), kernel=family)
            for problem, family in problems
        ),
        gpu=load_gpu("h200"),
        folder=folder,
        simulate=True,
        max_measurements=2,
    )
    tuning.run(plan)
    return tuning.load_run(folder)


def study(
    problem: str,
    *,
    family: str = "triton_gemm",
    gpu: str = "h200",
    simulated: bool = True,
    config: TileConfig | None = None,
    correct: bool = True,
    time_us: float = 21.8125,
) -> StudyRecord:
    """A study with one trial, its configuration the family's default, made up without a sweep."""
    parsed = parse_problem(problem)
    if config is None:
        chosen = family if family in kernels() else "triton_gemm"
        config = kernel(chosen).default(parsed, load_gpu("h200").limits)
    samples = () if simulated else tuple(time_us - 1.8125 + i / 8 for i in range(30))
    measurement = Measurement(
        status=Status.CORRECT if correct else Status.CORRECTNESS,
        simulated=simulated,
        time_us=time_us if correct else None,
        samples_us=samples if correct else (),
        timing="simulated" if simulated else "graph-rotate",
        accuracy=None
        if simulated
        else Accuracy(ok=correct, max_error_over_bound=0.25, relative_rms=1e-3),
    )
    trial = TrialRecord(
        config=config,
        measurement=measurement,
        predicted_us=19.5,
        predicted_low_us=15.0,
        predicted_high_us=25.0,
    )
    return StudyRecord(
        problem=parsed,
        kernel=family,
        gpu=gpu,
        path="native",
        simulated=simulated,
        environment=None if simulated else ENVIRONMENT,
        space_size=10,
        legal_size=8,
        rejected_by_rule={"shared memory": 2},
        stopped="done",
        not_compared="",
        trials=(trial,),
    )


def run_of(*studies: StudyRecord, planned: Sequence[tuple[str, str]] = ()) -> Run:
    """A run of made-up studies; ``planned``: (problem, kernel) of those that never began."""
    known = {one.kernel for one in studies} & set(kernels())
    sources = {name: source_digest(kernel(name).template) for name in known}
    return Run(
        folder=Path("runs/made-up"),
        plan={
            "sources": sources,
            "studies": [
                {"problem": problem, "kernel": name}
                for problem, name in (*((str(s.problem), s.kernel) for s in studies), *planned)
            ],
        },
        gpu=load_gpu("h200"),
        studies=studies,
    )


def reseal(folder: Path) -> None:
    """What a forger would do after an edit: new digests in the evidence, a new wheel."""
    evidence = json.loads((folder / EVIDENCE).read_text())
    evidence["files"] = digests(folder)
    for path, record in evidence["templates"].items():
        record["sha256"] = evidence["files"][path]
    text = json.dumps(evidence, indent=1) + "\n"
    (folder / EVIDENCE).write_text(text)
    (folder / "src" / evidence["package"] / EVIDENCE).write_text(text)
    build_wheel(folder)


def files_in(folder: Path) -> list[str]:
    """Paths of all files below a folder."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
