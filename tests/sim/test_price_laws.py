"""What holds of every price: nothing beats its resources, and operands are read once at least."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from tiles.kernels import kernels
from tiles.problems import parse_problem

ROWS = 150
CASES = (
    ("gemm:1x5000x16384:e5m2-b128:bf16", "h200"),
    ("gemm:500x128x1000:jetfire-fp16-scales:bf16", "h200"),
    ("gemm:64x1000x2048:jetfire-128:bf16", "rtx4090"),
    ("gemm:1x1x1:bf16:bf16", "a100"),
    ("gemm:16x8192x8192:w4a16-g128:bf16", "h100"),
    ("gemm:2048x7168x2048:mxfp8-e4m3:bf16", "mi355x"),
    ("gemm:129x1000x4096:nvfp4:bf16", "b200"),
    ("batched_gemm:8x512x128x512:e4m3-tensor:kn:bf16", "h200"),
    ("grouped_gemm:4x1024x512x2048:deepseek-fp8:contiguous:bf16", "h200"),
    ("quantize:8192x8192:int8.b32x32+sr:bf16", "h20"),
    ("quantize:1000x1024:nvfp4:bf16", "b300"),
    ("dequantize:4096x4096:e4m3fn.mx:bf16", "l40s"),
    ("transpose:16384x4096:int8", "mi300x"),
    ("dataflow:16384x4096:rmsnorm:int8.b32x32+sr", "b300"),
    ("dataflow:8192x4096:rmsnorm-bwd:int8.b32x32", "h200"),
    ("dataflow:4096x11008:silu-bwd:int8.b32x32+sr", "a100"),
)


@pytest.mark.parametrize(("text", "name"), CASES, ids=lambda one: str(one))
def test_no_price_beats_its_own_resources(text: str, name: str) -> None:
    problem, gpu = parse_problem(text), sim.load_gpu(name)
    rng = np.random.default_rng(0)
    served = 0
    for kernel in kernels().values():
        if kernel.refusal(problem, gpu.limits) or sim.unpriced(problem, kernel):
            continue
        legal = kernel.legal_space(problem, gpu.limits).accepted
        if not len(legal):
            continue
        served += 1
        table = legal.take(np.sort(rng.permutation(len(legal))[:ROWS]))
        priced = sim.price(problem, kernel, table, gpu)
        for column in (priced.low_us, priced.time_us, priced.high_us):
            assert np.isfinite(column).all()
        assert ((0 < priced.low_us) & (priced.low_us < priced.time_us)).all()
        assert (priced.time_us < priced.high_us).all()
        for term, column in priced.terms_us.items():
            assert (column >= 0).all(), (kernel.name, term)
            assert (column <= priced.time_us * (1 + 1e-9)).all(), (kernel.name, term)
        moved = priced.dram_read_bytes + priced.dram_write_bytes
        assert (moved >= problem.min_bytes * (1 - 1e-12)).all(), kernel.name
        assert (priced.time_us * gpu.dram_gb_per_s * 1e3 >= moved * (1 - 1e-9)).all(), kernel.name
        peak = max(gpu.tensor_flop_per_clk.values()) * gpu.sm_count * gpu.max_clock_mhz
        assert (priced.time_us >= problem.flops / peak).all(), kernel.name
    assert served


@pytest.mark.parametrize(
    "text",
    [
        "gemm:512x512x512:bf16:bf16",
        "gemm:512x512x512:int8-b128:bf16",
        "gemm:512x512x512:w4a16-g128:bf16",
        "gemm:16x512x512:mxfp8-e4m3:bf16",
    ],
)
def test_a_slice_of_one_multiprocessor_has_prices(text: str) -> None:
    """Clusters found no room on it: a division by zero, told as a warning above the table."""
    problem, gpu = parse_problem(text), replace(sim.load_gpu("h200"), sm_count=1)
    for kernel in kernels().values():
        if kernel.refusal(problem, gpu.limits) is None and sim.unpriced(problem, kernel) is None:
            table = kernel.legal_space(problem, gpu.limits).accepted
            table = table.take(np.arange(0, len(table), 1 + len(table) // ROWS))
            if len(table):
                assert np.isfinite(sim.price(problem, kernel, table, gpu).time_us).all()
