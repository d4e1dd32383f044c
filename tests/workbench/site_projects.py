"""Invented project folders for the tests of the site; every figure in them is made up."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_runs import invented_run

from tuning import Run
from workbench.reporting.site import write_site

THEN, NOW = "2026-11-20T10:00:00Z", "2026-11-21T11:30:00Z"
SHAPE = (4096, 4096, 4096)

CALIBRATION = {
    "schema": "tile-workbench/calibration/1",
    "gpu": "h200",
    "device": "NVIDIA H200",
    "driver": "580.1",
    "made": THEN,
    "simulated": False,
    "families": {"triton_gemm": {"rows": 120, "prior_error": 0.125, "physics_error": 0.0625}},
}
ERROR = {
    "schema": "tile-workbench/error/1",
    "products": [
        {"recipe": "e4m3-row", "data": "normal", "sqnr_db": 28.625},
        {"recipe": "jetfire", "data": "normal", "sqnr_db": None},
    ],
}
VERIFY = {
    "schema": "tile-workbench/verify/1",
    "package": "tile_kernels",
    "device": "cpu",
    "passed": False,
    "checks": [{"status": "passed"}, {"status": "failed"}, {"status": "passed"}],
}
EVIDENCE = {
    "schema": "tile-workbench/evidence/1",
    "package": "tile_kernels",
    "version": "0.1.0",
    "simulated": True,
    "statement": "simulated, never measured: an invented statement",
    "entries": [{"kernel": "triton_gemm", "problem": "gemm:1x1x1:bf16:bf16", "config": {}}] * 3,
    "templates": {},
    "files": {},
}


def small_runs() -> dict[str, Run]:
    """A measured run and a simulated one, of one shape each."""
    recipes = ("bf16", "e4m3-row", "int8-row")
    return {
        "runs/today": invented_run(name="today", shapes=(SHAPE,), recipes=recipes),
        "runs/tomorrow": invented_run(
            name="tomorrow", shapes=(SHAPE,), recipes=("bf16", "nvfp4"), simulated=True
        ),
    }


def slower(run: Run, factor: Callable[[int], float]) -> Run:
    """The run with every time of study ``i`` multiplied by ``factor(i)``."""
    studies = []
    for place, study in enumerate(run.studies):
        by = factor(place)
        trials = tuple(
            replace(
                trial,
                measurement=replace(
                    trial.measurement,
                    time_us=trial.measurement.time_us and by * trial.measurement.time_us,
                    samples_us=tuple(by * one for one in trial.measurement.samples_us),
                ),
            )
            for trial in study.trials
        )
        studies.append(replace(study, trials=trials))
    return replace(run, studies=tuple(studies))


def make(folder: Path, runs: Mapping[str, Run], **answers: Mapping[str, Any]) -> None:
    """Folders that are taken for runs, and JSON files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in runs:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "plan.json").touch()
    for name, content in answers.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def site(folder: Path, runs: Mapping[str, Run], written: str = NOW) -> Path:
    """Write the folder's site; where no invented run is known the real reader is asked."""
    from tuning import load_run

    def load(path: Path) -> Run:
        found = runs.get(path.relative_to(folder).as_posix())
        return load_run(path) if found is None else found

    return write_site(folder, folder / "site", load=load, written=written).parent
