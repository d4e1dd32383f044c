"""Prices problems over all families, as predictions do."""

from functools import cache

import sim
from sim import Prediction
from tiles.kernels import kernels
from tiles.problems import Problem


@cache
def best(problem: Problem, name: str) -> Prediction | str:
    """The fastest configuration that any family has on the GPU of that name."""
    gpu = sim.load_gpu(name)
    found = []
    for family in kernels().values():
        if family.refusal(problem, gpu.limits) or sim.unpriced(problem, family):
            continue
        legal = family.legal_space(problem, gpu.limits).accepted
        if len(legal):
            found.append(sim.price(problem, family, legal, gpu).best())
    return min(found, key=lambda one: one.time_us) if found else "no family runs it"
