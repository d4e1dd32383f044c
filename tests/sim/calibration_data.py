"""Timings that a known machine would give, for fits that must find it again."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import sim
from sim.calibration.unknowns import Machine
from sim.measured import MeasuredTable
from tiles.kernels import kernel
from tiles.problems import parse_problem

GPU = sim.load_gpu("h200")
SHAPES = (
    "16x4096x4096",
    "4096x4096x4096",
    "512x3072x768",
    "8192x2048x1024",
    "1024x4096x14336",
    "256x8192x256",
)


def measured(
    machine: Machine,
    *,
    shapes: Sequence[str] = SHAPES,
    recipes: Sequence[str] = ("bf16", "deepseek-fp8"),
    families: Sequence[str] = ("hopper_gemm",),
    rows: int = 6,
    noise: float = 0.02,
    wild: float = 0.0,
    seed: int = 0,
) -> list[MeasuredTable]:
    """Random configurations on the machine, times with log-normal noise, a share of them wild."""
    rng = np.random.default_rng(seed)
    tables = []
    for shape in shapes:
        for recipe in recipes:
            problem = parse_problem(f"gemm:{shape}:{recipe}:bf16")
            for name in families:
                family = kernel(name)
                legal = family.legal_space(problem, GPU.limits).accepted
                table = legal.take(np.sort(rng.permutation(len(legal))[:rows]))
                true = sim.price(
                    problem, family, table, machine.gpu, parameters=machine.templates
                ).time_us
                time_us = true * np.exp(noise * rng.normal(size=len(table)))
                spoilt = rng.random(len(table)) < wild
                time_us *= np.where(spoilt, rng.choice([0.4, 3.0], len(table)), 1.0)
                tables.append(
                    MeasuredTable(
                        problem=problem,
                        kernel=family,
                        gpu=GPU.name,
                        table=table,
                        time_us=time_us,
                        iqr_us=0.01 * time_us,
                        whole_space=False,
                    )
                )
    return tables


def log_error(found: float, true: float) -> float:
    """How far a value is from the true one, in log."""
    return float(np.abs(np.log(found / true)))


def every_time(tables: Sequence[MeasuredTable]) -> NDArray[np.float64]:
    """All times, one after another."""
    return np.concatenate([one.time_us for one in tables])
