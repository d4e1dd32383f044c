"""Measured tables made up for tests."""

from typing import Any

import numpy as np

import sim
from sim.measured import MeasuredTable
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import parse_problem

H200 = sim.load_gpu("h200")

FACTS = CompileFacts(
    compiler="triton 3.6.0",
    target="sm_90",
    threads=128,
    smem_bytes=65536,
    registers=96,
    stack_bytes=0,
    pipeline_depth=3,
    mma="wgmma",
)


def gemm_table(**axes: Any) -> ConfigTable:
    """The product of the given axes; what is not named has one value."""
    one = {
        "block_m": [128],
        "block_n": [128],
        "block_k": [64],
        "group_m": [8],
        "num_warps": [4],
        "num_stages": [3],
        "tma": [True],
        "persistent": [False],
    }
    return ConfigTable.product(kernel("triton_gemm").config_type, **{**one, **axes})


def hopper_table(**axes: Any) -> ConfigTable:
    """The same for the CUDA C++ family."""
    one = {
        "block_m": [128],
        "block_n": [128],
        "stages": [4],
        "cluster": [1],
        "group_m": [1],
        "pingpong": [False],
        "store_buffers": [1],
    }
    return ConfigTable.product(kernel("hopper_gemm").config_type, **{**one, **axes})


def measured(
    problem: str = "gemm:4096x4096x4096:bf16:bf16",
    times: Any = None,
    *,
    table: ConfigTable | None = None,
    family: str = "triton_gemm",
    **changes: Any,
) -> MeasuredTable:
    """A table of four tiles, or of ``table``; times count up from 100 us."""
    rows = table or gemm_table(block_m=[64, 128], block_n=[128, 256])
    time_us = np.arange(100.0, 100.0 + len(rows)) if times is None else np.array(times, float)
    return MeasuredTable(
        **{
            "problem": parse_problem(problem),
            "kernel": kernel(family),
            "gpu": "h200",
            "table": rows,
            "time_us": time_us,
            "iqr_us": time_us / 100,
            "whole_space": True,
            **changes,
        }
    )
