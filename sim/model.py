"""Pricing: every configuration of a table, on a GPU that need not be here."""

from sim.dataflow_model import dataflow_cost
from sim.gemm_model import gemm_cost
from sim.gpu import Gpu
from sim.hopper_gemm_model import hopper_gemm_cost
from sim.interval import interval_us
from sim.memory_bound import quantize_cost
from sim.prediction import PricedTable
from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.hopper_gemm import HopperGemmConfig
from tiles.problems import Dataflow, Gemm, Problem, Quantize

__all__ = ["price"]


def price(problem: Problem, kernel: Kernel, table: ConfigTable, gpu: Gpu) -> PricedTable:
    """Predict time, traffic and terms of every configuration in ``table``.

    Args:
        problem: what is computed.
        kernel: the family that the configurations belong to.
        table: configurations, legal ones; at least one.
        gpu: the GPU to predict for.
    Raises:
        ValueError: the table is empty, or nothing prices that kind of problem.
    """
    if len(table) == 0:
        raise ValueError(f"no configuration of {kernel.name} to price for {problem} on {gpu.name}")
    path = kernel.path(problem, gpu.limits)
    if isinstance(problem, Gemm) and kernel.config_type is HopperGemmConfig:
        cost = hopper_gemm_cost(problem, table, gpu)
    elif isinstance(problem, Gemm):
        cost = gemm_cost(problem, path, table, gpu)
    elif isinstance(problem, Quantize):
        cost = quantize_cost(problem, table, gpu)
    elif isinstance(problem, Dataflow):
        cost = dataflow_cost(problem, table, gpu)
    else:
        raise ValueError(f"{problem}: no cost model for {problem.kind} problems")
    low_us, high_us = interval_us(cost.time_us, cost.terms_us, path)
    return PricedTable(
        problem=problem,
        kernel=kernel.name,
        gpu=gpu.name,
        path=path,
        table=table,
        time_us=cost.time_us,
        low_us=low_us,
        high_us=high_us,
        terms_us=cost.terms_us,
        dram_read_bytes=cost.dram_read_bytes,
        dram_write_bytes=cost.dram_write_bytes,
        l2_read_bytes=cost.l2_read_bytes,
    )
