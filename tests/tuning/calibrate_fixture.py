"""What the tests of calibration share."""

import sim
from tiles.kernels import Kernel
from tiles.problems import Problem, parse_problem
from tuning.plan import StudyPlan
from tuning.strategies import LegalTable
from tuning.strategies.stratified import StratifiedStrategy

GPU = sim.load_gpu("h200")


def legal_table_of(problem: Problem, family: Kernel) -> LegalTable:
    table = family.legal_space(problem, GPU.limits).accepted
    return LegalTable.of(sim.price(problem, family, table, GPU))


def stratified(legal: LegalTable, **options: int) -> StratifiedStrategy:
    return StratifiedStrategy(legal, **options)  # type: ignore[arg-type]


def small_design(gpu: sim.Gpu, timings: int, seed: int) -> tuple[StudyPlan, ...]:
    """Studies of one family with a small space: what a rehearsal of a second has time for."""
    shapes = ("16x4096x4096", "4096x4096x4096", "512x3072x768", "8192x8192x256", "64x2112x7168")
    return tuple(
        StudyPlan(problem=parse_problem(f"gemm:{shape}:{fmt}:bf16"), kernel="hopper_gemm")
        for shape in shapes
        for fmt in ("bf16", "deepseek-fp8")
    )[seed : seed + 6]
