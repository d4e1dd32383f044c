"""Models and rules that others have published, written from their descriptions.

None of them knows scales, promotion, spills or the clock; that is what they are here to show.
Their own constants stay, the GPU's figures take the place of other GPUs'.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.baselines.gemm_view import GemmView, gemm_view
from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = [
    "PUBLISHED",
    "PublishedRule",
    "deepgemm_cycles",
    "helion_choice",
    "helion_distance",
    "origami_us",
    "triton_model_us",
]

F64 = NDArray[np.float64]

#: Share of the cycles by which fewer stages come later: less than tiles differ by.
DEEPGEMM_TIE = 1e-9


def triton_model_us(view: GemmView, gpu: Gpu) -> F64:
    """The classic performance model of Triton's matmul: max(compute, load) + store, microseconds.

    Of the loads of a tile's rows by further tiles, 80 % hit an L2 four times as fast as DRAM; 32
    CTAs saturate 95 % of DRAM; stores reach 60 % of it, and a shared K has its sums cleared before;
    a CTA of four warps and more keeps its multiprocessor's tensor cores busy.  A matrix smaller
    than a tile counts as one tile.
    """
    m, n = np.maximum(view.m, view.block_m), np.maximum(view.n, view.block_n)
    cores = 4 * gpu.sm_count
    busy = np.minimum(cores, view.ctas * np.minimum(4, view.warps)) / cores
    compute = 2.0 * m * n * view.k / (view.rate * gpu.sm_count * gpu.max_clock_mhz * busy)
    early = np.minimum(1.0, view.ctas / 32)
    late = np.clip((view.ctas - 32) / (gpu.sm_count - 32), 0.0, 1.0)
    dram = gpu.dram_gb_per_s * (0.95 * early + 0.05 * late) * 1e3  # bytes a microsecond
    a = m * view.k * view.a_bytes
    b = n * view.k * view.b_bytes
    again_a, again_b = view.tiles_n - 1, view.tiles_m - 1
    missed = a * (1 + 0.2 * again_a) + b * (1 + 0.2 * again_b)
    load = missed / dram + 0.8 * (a * again_a + b * again_b) / (4 * dram)
    cleared = np.where(view.split_k > 1, 2.0, 0.0)
    store = m * n * (view.c_bytes * view.split_k + cleared) / (0.6 * dram)
    return np.asarray(np.maximum(compute, load) + store)


def deepgemm_cycles(view: GemmView, gpu: Gpu) -> F64:
    """DeepGEMM's rule: max(L2 cycles, shared-memory cycles) over the efficiency of waves.

    Every tile brings K (BM / cluster along N + BN / cluster along M) bytes and its output through
    an L2 of 64 B a clock and multiprocessor, 6154 at most.  Shared memory is filled with K (BM +
    BN) bytes, the tensor cores read K (max(64, BM) + BN), and the output passes twice, at 128 B a
    clock.  No DRAM, and the product's own time is a constant: an order, not a time.

    What is no candidate of the rule comes last: fewer than 3 stages, 4 where a tile is smaller than
    128 x 192, both sides beyond 128, and clusters where one wave does.  Of one tile it takes as
    many stages as fit, so equal cycles are told apart by stages.
    Source: deepseek-ai/DeepGEMM, csrc/jit_kernels/heuristics/sm90.hpp.
    """
    tiles = view.tiles_m * view.tiles_n
    waves = -(-tiles // gpu.sm_count)
    efficiency = tiles / (waves * gpu.sm_count)
    a, b = view.block_m * view.a_bytes, view.block_n * view.b_bytes
    stored = view.block_m * view.block_n * view.c_bytes
    brought = view.k * (a / view.cluster_n + b / view.cluster_m) + stored
    read = view.k * (np.maximum(64, view.block_m) * view.a_bytes + b) + stored
    l2 = tiles * brought / min(64.0 * gpu.sm_count, 6154.0)
    shared = tiles * (view.k * (a + b) + read + stored) / (128.0 * gpu.sm_count)
    cycles = np.maximum(l2, shared) / efficiency
    small = view.block_m * view.block_n < 128 * 192
    refused = (view.stages < 3) | (small & (view.stages < 4))
    refused |= (view.block_m > 128) & (view.block_n > 128)
    refused |= (view.cluster_m * view.cluster_n > 1) & (waves <= 1)
    cycles = cycles * (1 + DEEPGEMM_TIE / view.stages)
    return np.asarray(np.where(refused, cycles + cycles.max(), cycles))


def origami_us(view: GemmView, gpu: Gpu) -> F64:
    """Tile latency times waves, as Origami (tritonBLAS) has it, microseconds.

    A tile is a prologue of one and a half memory latencies, its K-steps at the slower of compute
    and memory, and its store; the L2 serves what the tiles of a wave share; K that BK does not
    divide is punished.  One CTA a multiprocessor.
    """
    together = np.minimum(view.ctas, gpu.sm_count)
    steps = -(-view.k // (view.block_k * view.split_k))
    compute = 2.0 * view.block_m * view.block_n * view.block_k / view.rate
    a = view.block_m * view.block_k * view.a_bytes
    b = view.block_n * view.block_k * view.b_bytes
    rows = np.minimum(np.minimum(view.group_m, view.tiles_m), together)
    columns = -(-together // rows)
    unique = rows * a + columns * b
    l2 = gpu.l2_read_gb_per_s / gpu.max_clock_mhz * 1e3  # bytes a clock
    dram = gpu.dram_gb_per_s / gpu.max_clock_mhz * 1e3
    memory = np.maximum(together * (a + b) / l2, unique / dram)
    latency = gpu.dram_latency_ns * gpu.max_clock_mhz / 1e3 + 200.0
    store = together * view.block_m * view.block_n * view.c_bytes / dram
    tail = 50_000.0 * (view.k % view.block_k) / view.k
    tile = 1.5 * 0.95 * latency + steps * np.maximum(compute, memory) + store + tail
    return np.asarray(-(-view.ctas // gpu.sm_count) * tile / gpu.max_clock_mhz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One configuration that a rule names."""

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    group_m: int


def helion_choice(view: GemmView, gpu: Gpu) -> Choice:
    """Helion's formula for an H100: one configuration for a product.

    From a tile of 128 x 256 (32 768 fp32 sums, 128 registers of 256 threads) the longer side is
    halved until waves are at least 80 % full or 64 x 64 is reached; rows beyond M are not kept.
    8 warps from 16 384 sums on, else 4; 4 to 6 stages as shared memory allows; groups of 2.
    """
    block_m, block_n = 128, 256
    while block_m > 16 and block_m >= 2 * view.m:
        block_m //= 2

    def full() -> float:
        tiles = -(-view.m // block_m) * -(-view.n // block_n)
        return tiles / (-(-tiles // gpu.sm_count) * gpu.sm_count)

    while full() < 0.8 and (block_m > 64 or block_n > 64):
        if block_n >= block_m:
            block_n //= 2
        else:
            block_m //= 2
    block_k = round(128 / max(view.a_bytes, view.b_bytes))
    stage = block_k * (block_m * view.a_bytes + block_n * view.b_bytes)
    stages = int(np.clip(gpu.smem_bytes_per_cta // stage, 4, 6))
    warps = 8 if block_m * block_n >= 16_384 else 4
    return Choice(
        block_m=block_m, block_n=block_n, block_k=block_k, warps=warps, stages=stages, group_m=2
    )


def helion_distance(view: GemmView, gpu: Gpu) -> F64:
    """Squared distance of a row from what the formula names, in doublings: 1 and up.

    The nearest row stands for the formula's own where that is not in the table.
    """
    wanted = helion_choice(view, gpu)
    pairs = (
        (view.block_m, wanted.block_m),
        (view.block_n, wanted.block_n),
        (view.block_k, wanted.block_k),
        (view.warps, wanted.warps),
        (view.stages, wanted.stages),
        (view.group_m, wanted.group_m),
    )
    total = np.ones(len(view.block_m))
    for column, value in pairs:
        total = total + np.log2(column / value) ** 2
    return total


class PublishedRule:
    """A function of the common view as a predictor."""

    def __init__(self, name: str, kind: Kind, rule: Callable[[GemmView, Gpu], F64]) -> None:
        self.name = name
        self.kind = kind
        self._rule = rule

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
        """The rule's answer; None for what is no plain product."""
        view = gemm_view(table.problem, table.table, gpu)
        return None if view is None else Predicted(time_us=self._rule(view, gpu))


#: All of them, in the order of the tables.
PUBLISHED = (
    PublishedRule("Triton's performance model", Kind.FORMULA, triton_model_us),
    PublishedRule("Origami-style", Kind.FORMULA, origami_us),
    PublishedRule("DeepGEMM's rule", Kind.ORDER, deepgemm_cycles),
    PublishedRule("Helion's formula", Kind.ORDER, helion_distance),
)
