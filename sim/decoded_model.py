"""The cost of decoded products: a pass that decodes and a 16-bit product, or decoding in the loop.

A first model: bytes, instructions read off the code that Triton 3.7.1 makes for sm_90, and the
tensor cores' 16-bit rates.  On sweeps of an H200 (``data/h200/sweeps``) staged products come out
within a tenth; loops that decode in tiles of 32 rows and more are predicted too fast.

Left out: bank conflicts of decoded tiles, drift between CTAs.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gemm_model import dram_read_bytes, gemm_cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.occupancy import ctas_per_sm
from sim.parameters import DECODED, GEMM, DecodedParameters, GemmParameters
from sim.pipes import ISSUE_LANES, mma_clk, uses_warpgroups
from sim.traffic import footprint
from sim.waves import waves
from tiles.formats import TensorFormat, element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.decoded_formats import inner_problem, template_element
from tiles.kernels.decoded_resources import loop_registers, loop_smem_bytes
from tiles.problems import Gemm

__all__ = ["decode_instructions", "decoded_cost"]

F64 = NDArray[np.float64]

#: First capability that converts 8-bit floats.
CAST_CAPABILITY = 89
#: Instructions an element: conversions to fp16 and (through fp32) to bf16; bytes of other floats
#: and of those with a NaN; integers; the two halves of a byte; 6-bit floats; posits; the rest.
CAST_FP16, CAST_BF16, BYTES, BYTES_NAN, INTEGER = 0.5, 2.0, 2.5, 4.0, 2.3
HALVES, SIX, POSIT, OTHER = 3.4, 5.7, 27.0, 12.0
#: Multiplication by a folded scale, two elements an instruction.
FOLD = 0.5
#: Instructions of the decoding pass beside decoding, an element: addresses, loads, stores.
MOVE_INSTRUCTIONS = 1.5


def decode_instructions(fmt: TensorFormat, wide: str, capability: int) -> float:
    """Instructions that decode an element of an operand, its folded scale included."""
    one = template_element(fmt.element)
    assert one is not None
    if one.kind == "plain":
        return 0.0
    name = fmt.element.name
    fold = FOLD if fmt.scaling is not None and fmt.scaling.stored.name != "fp32" else 0.0
    if one.kind == "posit":
        return POSIT
    if name in ("e4m3fn", "e5m2") and capability >= CAST_CAPABILITY:
        return fold + (CAST_FP16 if wide == "fp16" else CAST_BF16)
    if one.kind == "int" and one.bits == 8:
        return fold + INTEGER
    if name == "e2m1fn":
        return fold + HALVES
    if one.kind == "float" and one.bits == 6:
        return fold + SIX
    if one.kind == "float" and one.bits == 8 and one.specials in ("fn", "none"):
        return fold + (BYTES_NAN if one.specials == "fn" else BYTES)
    return OTHER


def decoded_cost(
    problem: Gemm,
    _: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: DecodedParameters = DECODED,
    product: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``DecodedGemmConfig``."""
    inner = inner_problem(problem)
    native = np.asarray(table["native"], np.bool_)
    staged = np.asarray(table["staged"], np.bool_)
    parts: list[tuple[NDArray[np.int64], Cost]] = []
    for chosen, way in (
        (staged, _staged_cost),
        (native, _native_cost),
        (~staged & ~native, _loop_cost),
    ):
        rows = np.flatnonzero(chosen)
        if len(rows):
            known = compiled.take(rows)
            cost = way(problem, inner, table.take(rows), gpu, known, parameters, product)
            parts.append((rows, cost))
    return _joined(len(table), parts)


def _joined(count: int, parts: list[tuple[NDArray[np.int64], Cost]]) -> Cost:
    """One cost of the costs of some rows each; a part without a term has none of it."""

    def column(values: list[tuple[NDArray[np.int64], F64 | None]]) -> F64:
        found = np.zeros(count)
        for rows, part in values:
            if part is not None:
                found[rows] = part
        return found

    terms = dict.fromkeys(name for _, cost in parts for name in cost.terms_us)
    return Cost(
        time_us=column([(rows, cost.time_us) for rows, cost in parts]),
        terms_us={
            name: column([(rows, cost.terms_us.get(name)) for rows, cost in parts])
            for name in terms
        },
        dram_read_bytes=column([(rows, cost.dram_read_bytes) for rows, cost in parts]),
        dram_write_bytes=column([(rows, cost.dram_write_bytes) for rows, cost in parts]),
        l2_read_bytes=column([(rows, cost.l2_read_bytes) for rows, cost in parts]),
    )


def _native_cost(
    problem: Gemm,
    _: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    __: DecodedParameters,
    product: GemmParameters,
) -> Cost:
    """Codes and block scales as stored, at the rate of the slower of both elements."""
    names = [fmt.element.name for _, fmt in _sides(problem)]
    slower = min(names, key=lambda name: gpu.tensor_flop_per_clk[name])
    return gemm_cost(
        problem,
        NumericPath.NATIVE,
        table,
        gpu,
        compiled,
        block_scaled=slower,
        parameters=product,
    )


def _sides(problem: Gemm) -> tuple[tuple[int, TensorFormat], tuple[int, TensorFormat]]:
    return (problem.m, problem.recipe.activation), (problem.n, problem.recipe.weight)


def _staged_cost(
    problem: Gemm,
    inner: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    of: DecodedParameters,
    parameters: GemmParameters,
) -> Cost:
    """A streaming pass an operand, then the 16-bit product."""
    product = _inner_cost(inner, table, gpu, compiled, parameters)
    wide = inner.recipe.activation.element.name
    clock_ghz = gpu.max_clock_mhz / 1e3
    read = written = pass_us = kept_us = 0.0
    for rows, fmt in _sides(problem):
        if fmt.element.bits == 16:
            continue
        elements = rows * problem.k
        codes, decoded = float(fmt.storage_bytes(rows, problem.k)), 2.0 * elements
        instructions = of.decode_share * decode_instructions(fmt, wide, gpu.capability)
        instructions += MOVE_INSTRUCTIONS
        issue_ns = elements * instructions / (ISSUE_LANES * gpu.sm_count * clock_ghz)
        # What the L2 keeps of a decoded operand goes to memory beside what comes next.
        kept = min(decoded, gpu.l2_bytes)
        kept_us += kept / gpu.dram_copy_gb_per_s / 1e3
        dram_ns = codes / gpu.dram_read_gb_per_s + (decoded - kept) / gpu.dram_copy_gb_per_s
        ends_ns = gpu.dram_latency_ns + of.cta_clk / clock_ghz
        pass_us += (max(issue_ns, dram_ns) + ends_ns) / 1e3 + gpu.graph_launch_us
        read, written = read + codes, written + decoded
    terms = dict(product.terms_us)
    terms["dram"] = terms["dram"] + kept_us
    terms["decode"] = np.full(len(table), pass_us)
    fixed = terms["launch"] + terms["prologue_epilogue"]
    return Cost(
        time_us=np.maximum(product.time_us, terms["dram"] + fixed) + pass_us,
        terms_us=terms,
        dram_read_bytes=product.dram_read_bytes + read,
        dram_write_bytes=product.dram_write_bytes + written,
        l2_read_bytes=product.l2_read_bytes + read,
    )


@dataclass(frozen=True, slots=True)
class _Priced:
    gpu: Gpu  #: the object itself, so that its place in memory is not taken by another one
    table: ConfigTable
    cost: Cost


#: The 16-bit products priced last: recipes differ in what is decoded, and share what is multiplied.
_INNER: dict[Hashable, _Priced] = {}
_MOST_INNER = 4


def _inner_cost(
    inner: Gemm, table: ConfigTable, gpu: Gpu, compiled: Compiled, parameters: GemmParameters
) -> Cost:
    """The cost of the plain 16-bit product; of the last ones it is known already."""
    key = (inner.shape, inner.out, inner.recipe.activation, inner.recipe.weight, parameters)
    known = _INNER.get(key)
    if known is not None and known.gpu is gpu and not compiled.known.any():
        columns = known.table.columns
        if all(np.array_equal(columns[name], table[name]) for name in columns):
            return known.cost
    cost = gemm_cost(inner, NumericPath.NATIVE, table, gpu, compiled, parameters=parameters)
    if not compiled.known.any():
        while len(_INNER) >= _MOST_INNER:
            _INNER.pop(next(iter(_INNER)), None)
        _INNER[key] = _Priced(gpu, table, cost)
    return cost


def _loop_cost(
    problem: Gemm,
    inner: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    of: DecodedParameters,
    product: GemmParameters,
) -> Cost:
    """Codes are copied, decoded, stored to shared memory and multiplied, one after the other."""
    m, n, k = problem.shape
    bm, bn, bk, warps = (table[x] for x in ("block_m", "block_n", "block_k", "num_warps"))
    stages = np.maximum(table["num_stages"], 1)
    threads = warps * gpu.warp_threads
    wide = inner.recipe.activation.element.name
    warpgroups = uses_warpgroups(gpu, bm, warps, element=wide)
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    tiles, iterations = tiles_m * tiles_n, -(-k // bk)
    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(loop_registers(table, gpu.warp_threads)),
        smem_bytes=compiled.smem(loop_smem_bytes(problem, table, gpu.capability)),
        warps=warps,
    )
    spread = waves(tiles, occupancy, gpu.sm_count)
    clock_ghz = gpu.sustained_clock_mhz / 1e3

    (_, activation), (_, weight) = _sides(problem)
    a_tile = activation.storage_bytes(m, k) / tiles_m
    b_tile = weight.storage_bytes(n, k) / tiles_n
    seen = footprint(tiles_m, tiles_n, table["group_m"], spread.capacity)
    dram_read = dram_read_bytes(
        gpu, tiles_m, tiles_n, table["group_m"], a_tile, b_tile, spread.count, seen
    )
    out_bytes = float(m * n * element(problem.out).bits // 8)
    l2_read = tiles * (a_tile + b_tile)
    held = np.maximum(stages - 1, 1) * (a_tile + b_tile) / iterations
    in_flight = np.minimum(spread.capacity, tiles) * held
    latency = of.loaded_latency * gpu.dram_latency_ns
    busy = saturation(in_flight, gpu.dram_read_gb_per_s, latency)
    dram = dram_read / (gpu.dram_read_gb_per_s * busy) + out_bytes / gpu.dram_copy_gb_per_s

    # What the fullest SM does.
    share = (spread.full * occupancy + spread.tail_per_sm) / tiles
    through_l2 = l2_read + out_bytes
    l2 = l2_ns(gpu, bytes_per_sm=through_l2 * share, bytes_total=through_l2, clock_ghz=clock_ghz)
    here = tiles * iterations * share
    tensor_clk = here * mma_clk(gpu, bm, bn, bk, warps, element=wide, warpgroups=warpgroups)
    decode = (
        bm * decode_instructions(activation, wide, gpu.capability)
        + bn * decode_instructions(weight, wide, gpu.capability)
    ) * bk
    cuda_clk = here * (of.decode_share * decode + threads * of.loop_instructions) / ISSUE_LANES
    # Decoded tiles are written to shared memory once and read by every 64 rows or columns.
    smem_clk = here * 2.0 * bk * (bm + bn) * (1 + np.maximum(bm, bn) / 128) / gpu.smem_bytes_per_clk
    together = overlap(tensor_clk, cuda_clk, smem_clk, exponent=of.overlap_exponent)
    serial = tensor_clk + np.maximum(cuda_clk, smem_clk)
    resident = np.clip(tiles / gpu.sm_count, 1, occupancy)
    # A wave takes as long as a warp's own instructions, one after another, however few others are.
    product_clk = mma_clk(gpu, bm, bn, bk, warps, element=wide, warpgroups=warpgroups)
    chain_clk = of.instruction_clk * (of.decode_share * decode / threads + of.loop_instructions)
    chain_clk = spread.count * iterations * (chain_clk + product_clk)
    serial = np.maximum(together + np.maximum(serial - together, 0.0) / resident, chain_clk)
    compute = serial / clock_ghz
    lone = iterations * latency / np.maximum(stages - 1, 1) * spread.count
    ends_ns = gpu.dram_latency_ns + of.cta_clk / clock_ghz * spread.count
    main = overlap(dram, l2, compute, lone, exponent=of.overlap_exponent)
    launch_us = gpu.graph_launch_us + product.device_floor_us
    terms = {
        "tensor": tensor_clk / clock_ghz / 1e3,
        "cuda_cores": cuda_clk / clock_ghz / 1e3,
        "shared_memory": smem_clk / clock_ghz / 1e3,
        "l2": l2 / 1e3,
        "dram": dram / 1e3,
        "latency": np.maximum(lone, chain_clk / clock_ghz) / 1e3,
        "prologue_epilogue": ends_ns / 1e3,
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=(main + ends_ns) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), out_bytes),
        l2_read_bytes=l2_read,
    )
