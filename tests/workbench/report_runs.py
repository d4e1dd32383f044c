"""Invented runs for the tests of the report; every figure in them is made up."""

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

from sim import load_gpu
from tiles.kernels import Accuracy, Status
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.quantize import TritonQuantizeConfig
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import recipe
from tuning import Environment, Measurement, Run, StudyRecord, TrialRecord
from tuning.energy import Energy
from tuning.objective import Objective

RECIPES = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "jetfire")
SPEED = {"bf16": 1.0, "e4m3-row": 1.7, "deepseek-fp8": 1.4, "int8-row": 1.6}

#: Any value does: the report prints configurations and reads nothing in them.
QUANTIZE_CONFIG: dict[str, Any] = {
    f.name: False if f.type in (bool, "bool") else 4 for f in fields(TritonQuantizeConfig)
}


def gemm_config(rng: random.Random) -> GemmConfig:
    return GemmConfig(
        block_m=rng.choice((64, 128)),
        block_n=rng.choice((64, 128, 256)),
        block_k=64,
        group_m=8,
        num_warps=8,
        num_stages=rng.choice((3, 4)),
        tma=True,
        persistent=False,
    )


def study(
    problem: Problem,
    base_us: float,
    rng: random.Random,
    *,
    simulated: bool,
    trials: int = 24,
    energy: bool = False,
    **changes: Any,
) -> StudyRecord:
    """A study whose best trial takes about ``base_us``; two of its trials fail when measured.

    Args:
        energy: it searched for energy: the least is taken by trials that are a little slower.
    """
    records: list[TrialRecord] = []
    for number in range(trials):
        predicted = base_us * (1 + rng.expovariate(3))
        time_us = predicted if simulated else predicted * rng.lognormvariate(0, 0.08)
        status, reason = Status.CORRECT, ""
        if not simulated and number in (3, 9):
            status, reason = Status.RUNTIME, "an illegal memory access was encountered"
        good = status is Status.CORRECT
        slower = predicted / base_us
        predicted_mj = base_us * (250 * slower + 350 / slower) / 1e3 if energy else None
        # Whose draws are taken apart, so that runs without energies are what they were.
        noise = 1.0 if simulated else 1 + 0.1 * ((number * 7) % 5 - 2) / 2
        config = (
            gemm_config(rng)
            if isinstance(problem, Gemm)
            else TritonQuantizeConfig(**QUANTIZE_CONFIG)
        )
        records.append(
            TrialRecord(
                config=config,
                measurement=Measurement(
                    status=status,
                    simulated=simulated,
                    reason=reason,
                    time_us=time_us if good else None,
                    samples_us=(time_us, time_us * 1.01, time_us * 1.02, time_us) if good else (),
                    timing="simulated" if simulated else "events-cold",
                    energy=(
                        Energy(
                            energy_mj=predicted_mj * noise,
                            source="simulated" if simulated else "counter",
                            launches=0 if simulated else 1000,
                            seconds=0.0 if simulated else time_us / 1e3,
                        )
                        if predicted_mj is not None and good
                        else None
                    ),
                    accuracy=(
                        None
                        if simulated or not good
                        else Accuracy(ok=True, max_error_over_bound=0.2, relative_rms=1e-3)
                    ),
                ),
                predicted_us=predicted,
                predicted_low_us=predicted * 0.85,
                predicted_high_us=predicted * 1.2,
                predicted_energy_mj=predicted_mj,
            )
        )
    values: dict[str, Any] = {
        "problem": problem,
        "kernel": "triton_gemm" if isinstance(problem, Gemm) else "triton_quantize",
        "gpu": "h200",
        "path": "native",
        "simulated": simulated,
        "environment": None
        if simulated
        else Environment(
            gpu="NVIDIA H200",
            driver="580.1",
            sm_clock_mhz=1755,
            versions={"python": "3.12.3", "torch": "2.11.0", "triton": "3.6.0"},
        ),
        "space_size": 4800,
        "legal_size": 1900,
        "rejected_by_rule": {"shared memory": 1800, "tma needs 16-byte rows": 700, "warps": 400},
        "stopped": "an improvement of 1 % is unlikely",
        "not_compared": "",
        "trials": tuple(records),
        "objective": Objective.ENERGY if energy else Objective.TIME,
    }
    return StudyRecord(**{**values, **changes})


def invented_run(
    *,
    simulated: bool = False,
    shapes: tuple[tuple[int, int, int], ...] = ((16, 6144, 4096), (4096, 28672, 4096)),
    recipes: tuple[str, ...] = RECIPES,
    quantize: bool = True,
    name: str = "invented",
    **changes: Any,
) -> Run:
    """A run over shapes and recipes; ``changes`` go to every study."""
    rng = random.Random(7)
    studies: list[StudyRecord] = []
    for m, n, k in shapes:
        for one in map(recipe, recipes):
            problem = Gemm(m=m, n=n, k=k, recipe=one)
            base = problem.flops / 600e6 / SPEED.get(one.name, 1.2) + 8.0
            studies.append(study(problem, base, rng, simulated=simulated, **changes))
            if quantize and one.quantized:
                step = Quantize(rows=m, cols=k, target=one.activation)
                cost = step.min_bytes / 3e6 + 2.0
                studies.append(study(step, cost, rng, simulated=simulated, trials=12, **changes))
    plan = {
        "schema": "tile-workbench/plan/1",
        "gpu": "h200",
        "simulate": simulated,
        "cache": "cold",
        "strategy": "hybrid",
        "seed": 0,
        "max_measurements": 24,
        "time_limit_s": 1800.0,
        "studies": [],
    } | ({"objective": "energy"} if changes.get("energy") else {})
    return Run(folder=Path("runs") / name, plan=plan, gpu=load_gpu("h200"), studies=tuple(studies))
