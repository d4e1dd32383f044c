"""The roofline of a problem: what stands in for the times of a family that nothing prices."""

from collections.abc import Mapping

import numpy as np

from sim.gpu import Gpu
from sim.prediction import PricedTable
from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Gemm, Problem

__all__ = ["roofline"]

#: Upper end of the interval over the roofline; a prior: slower kernels are not worth a search.
WORST = 20.0


def roofline(
    problem: Problem,
    kernel: Kernel,
    table: ConfigTable,
    gpu: Gpu,
    facts: Mapping[int, CompileFacts] | None = None,
) -> PricedTable:
    """The least time that the problem takes on the GPU, the same for every configuration.

    It advises no search: all rows tie, and the interval is so wide that the stopping rule waits
    for measurements.  Products take the peak of the elements that they multiply, other work that
    of the fastest; data moves through DRAM once.

    Args:
        problem, kernel, table, gpu, facts: like :func:`sim.price`; facts change nothing.
    """
    path = kernel.path(problem, gpu.limits)
    rates = gpu.tensor_flop_per_clk
    rate = max(rates.values())
    if isinstance(problem, Gemm):
        rate = rates.get(problem.recipe.activation.element.name, rates["fp16"])
    terms = {
        "tensor": problem.flops / (rate * gpu.sm_count * gpu.max_clock_mhz),
        "dram": problem.min_bytes / gpu.dram_gb_per_s / 1e3,
        "launch": gpu.graph_launch_us,
    }
    rows = np.ones(len(table))
    time_us = rows * max(terms.values())
    return PricedTable(
        problem=problem,
        kernel=kernel.name,
        gpu=gpu.name,
        path=path,
        table=table,
        time_us=time_us,
        low_us=time_us,
        high_us=time_us * WORST,
        terms_us={name: rows * term for name, term in terms.items()},
        dram_read_bytes=rows * problem.min_bytes,
        dram_write_bytes=rows * 0.0,
        l2_read_bytes=rows * problem.min_bytes,
    )
