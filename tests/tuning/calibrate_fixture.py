"""What the tests of calibration share."""

import sim
from tiles.kernels import Kernel
from tiles.problems import Problem
from tuning.strategies import LegalTable
from tuning.strategies.stratified import StratifiedStrategy

GPU = sim.load_gpu("h200")


def legal_table_of(problem: Problem, family: Kernel) -> LegalTable:
    table = family.legal_space(problem, GPU.limits).accepted
    return LegalTable.of(sim.price(problem, family, table, GPU))


def stratified(legal: LegalTable, **options: int) -> StratifiedStrategy:
    return StratifiedStrategy(legal, **options)  # type: ignore[arg-type]
