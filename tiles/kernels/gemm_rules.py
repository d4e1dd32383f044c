"""Which configurations of the scaled GEMM in Triton are legal."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat, element
from tiles.kernels.base import Limits
from tiles.kernels.gemm_smem import smem_bytes
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm

__all__ = ["launch_rules", "operand_formats", "quant_columns", "shape_rules", "waste_rules"]

#: What a thread needs beside its accumulators: addresses, counters, scales.
_OTHER_REGISTERS = 24
_MAX_REGISTERS = 255
_MAX_THREADS_PER_CTA = 1024

Mask = NDArray[np.bool_]


def _power_of_two(values: NDArray[Any]) -> Mask:
    result: Mask = (values > 0) & (values & (values - 1) == 0)
    return result


def _next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def quant_columns(fmt: TensorFormat) -> int:
    """Elements along K under one scale; 0 when scales do not change along K."""
    return 0 if fmt.scaling is None or fmt.scaling.cols is None else fmt.scaling.cols


def operand_formats(problem: Gemm) -> tuple[TensorFormat, TensorFormat]:
    """Of A and of B."""
    return problem.recipe.activation, problem.recipe.weight


def shape_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the compiler cannot build, whatever the GPU's size."""
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    warps, stages = table["num_warps"], table["num_stages"]
    extents_ok = np.logical_and.reduce([_power_of_two(x) for x in (m, n, k, warps)])
    # Below 32 bytes of depth, 8-bit instructions do not exist; 16 x 16 is Triton's smallest tile.
    min_k = 32 if problem.recipe.activation.element.bits == 8 else 16
    quant = [q for q in map(quant_columns, operand_formats(problem)) if q]
    undivided = np.zeros(len(table), dtype=bool)
    for columns in quant:
        undivided |= columns % np.maximum(k, 1) != 0
    return [
        # Triton's tensors have power-of-two extents; counts below 1 are slips.
        Rule(
            "tile shape",
            ~extents_ok | (stages < 1) | (table["group_m"] < 1),
            lambda r: (
                f"block_m {m[r]}, block_n {n[r]}, block_k {k[r]}, num_warps {warps[r]} must be "
                "powers of two, num_stages and group_m at least 1"
            ),
        ),
        Rule(
            "dot size",
            (m < 16) | (n < 16) | (k < min_k),
            lambda r: f"tile {m[r]}x{n[r]}x{k[r]}: a dot needs at least 16x16x{min_k}",
        ),
        # A K-iteration whose elements lie under several scales cannot be promoted as one product.
        Rule(
            "quant block",
            undivided,
            lambda r: f"block_k {k[r]} does not divide quant block k {min(quant, default=0)}",
        ),
    ]


def launch_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the GPU's descriptors and multiprocessors take."""
    return [*_tma_rules(problem, table, limits), *_resource_rules(problem, table, limits)]


def _tma_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What tensor-memory-access descriptors need."""
    tma = table["tma"]
    operand_row = problem.k * problem.recipe.activation.element.bits // 8
    out_row = problem.n * element(problem.out).bits // 8
    has_tma = "tma" in limits.features
    aligned = operand_row % 16 == 0 and out_row % 16 == 0
    boxes = (table["block_m"], table["block_n"], table["block_k"])
    return [
        Rule("tma", tma & (not has_tma), lambda r: f"{limits.gpu} has no tensor memory access"),
        Rule(
            "tma alignment",
            tma & (not aligned),
            lambda r: f"tma needs rows of multiples of 16 B, got K {operand_row} B, N {out_row} B",
        ),
        # cuTensorMapEncodeTiled: a box has at most 256 elements a dimension.
        Rule(
            "tma box",
            tma & (np.maximum.reduce(boxes) > 256),
            lambda r: "tma boxes have at most 256 elements a dimension",
        ),
    ]


def _resource_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What a CTA takes of a multiprocessor."""
    m, n = table["block_m"], table["block_n"]
    threads = table["num_warps"] * limits.warp_threads
    smem = smem_bytes(problem, table)
    accumulator = m * n // np.maximum(threads, 1)
    # A promoted product stands beside the fp32 accumulator until it is added.
    held = accumulator * (2 if problem.recipe.blockwise else 1)
    per_thread = np.minimum(_MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
    # Two accumulators of exactly 128 registers spill a few words only, so they stay in the space.
    hopeless = (accumulator + _OTHER_REGISTERS > per_thread) | (held > per_thread + 1)
    return [
        Rule(
            "threads",
            threads > min(_MAX_THREADS_PER_CTA, limits.threads_per_sm),
            lambda r: f"{threads[r]} threads > {_MAX_THREADS_PER_CTA} a CTA",
        ),
        Rule(
            "shared memory",
            smem > limits.smem_bytes_per_cta,
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
        Rule(
            "registers",
            hopeless,
            lambda r: (
                f"accumulators take {held[r]} of {per_thread[r]} registers a thread: they spill"
            ),
        ),
    ]


def waste_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Configurations that equal, or cannot beat, another one of the space."""
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    warps, stages, group = table["num_warps"], table["num_stages"], table["group_m"]
    # wgmma works on 64 rows, so a tile of 64 is fair for any M; twice the next power of two is
    # the last size that can still win by its smaller number of tiles.
    most_m = max(64, 2 * _next_power_of_two(problem.m))
    most_n = max(64, 2 * _next_power_of_two(problem.n))
    most_k = max(32, _next_power_of_two(problem.k))
    tiles_m = -(-problem.m // np.maximum(m, 1))
    iterations = -(-problem.k // np.maximum(k, 1))
    return [
        Rule(
            "oversized tile",
            (m > most_m) | (n > most_n) | (k > most_k),
            lambda r: (
                f"tile {m[r]}x{n[r]}x{k[r]} for a product of {problem.m}x{problem.n}x{problem.k}"
            ),
        ),
        # A warp's smallest share is one m16n8 instruction; more warps repeat each other's work.
        Rule(
            "warps",
            (m // 16) * (n // 8) < warps,
            lambda r: (
                f"{warps[r]} warps share the {(m[r] // 16) * (n[r] // 8)} m16n8 parts of a tile"
            ),
        ),
        # Stages beyond the iterations stay empty; only a persistent loop fills them across tiles.
        Rule(
            "stages",
            ~table["persistent"] & (stages > np.maximum(2, iterations + 1)),
            lambda r: f"{stages[r]} stages for {iterations[r]} K-iterations",
        ),
        Rule(
            "raster",
            (group > 1) & (tiles_m == 1),
            lambda r: f"group_m {group[r]} equals group_m 1: there is one row of tiles",
        ),
    ]
