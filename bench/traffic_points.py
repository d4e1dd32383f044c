"""Points whose traffic is counted: a kernel, a problem, a configuration, and what is predicted."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim import Gpu, price, unpriced
from sim.occupancy import BASE_REGISTERS, ctas_per_sm, gemm_registers
from sim.pipes import uses_warpgroups
from sim.prediction import PricedTable
from sim.traffic_replay import Raster, replay
from tiles.kernels import ConfigTable, TileConfig, kernel, kernels
from tiles.kernels.closure import source_digest
from tiles.kernels.gemm_smem import smem_bytes
from tiles.problems import Gemm, Problem, parse_problem

__all__ = ["ASKED", "Point", "points", "raster_of", "summary"]

#: Families whose tiles (or clusters of them) follow the grouped raster.
RASTERED = ("triton_gemm", "hopper_gemm", "hopper_block_gemm")
PROBLEMS = (
    *("gemm:4096x4096x4096:bf16:bf16", "gemm:8192x8192x8192:e4m3-row:bf16"),
    *("gemm:4096x7168x16384:deepseek-fp8:bf16", "gemm:16384x6144x2048:int8-row:bf16"),
    *("gemm:4096x14336x4096:int8-b128:bf16", "gemm:8192x8192x2048:jetfire:bf16"),
    *("gemm:2048x7168x2048:mxfp8-e4m3:bf16", "gemm:64x14336x4096:bf16:bf16"),
    *("gemm:16x8192x8192:w4a16-g128:bf16", "gemm:1000x1030x520:e4m3-row:bf16"),
    *("quantize:8192x8192:e4m3fn.b1x128:bf16", "quantize:8192x8192:int8.b32x32:bf16"),
    *("dequantize:8192x8192:e4m3fn.mx:bf16", "dataflow:8192x8192:layernorm:int8.b32x32+sr"),
)
#: What is asked: median and 90th percentile of the error, by predicted and counted quantity.
ASKED = {"dram_read_bytes": (0.10, 0.25), "dram_bytes": (0.10, 0.25), "l2_read_bytes": (0.10, 0.20)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A kernel's configuration on a problem, its predicted and its counted bytes."""

    problem: str
    kernel: str
    config: dict[str, Any]
    predicted: dict[str, float]  #: by the cost model
    replayed: dict[str, float] | None  #: against a cache; None where the raster is not modelled
    counted: dict[str, float] | None = None  #: by the hardware
    kernels: tuple[str, ...] = ()  #: names that were counted
    refused: str = ""  #: why nothing was counted
    source: str = ""  #: SHA-256 of the kernel source
    earlier: bool = False  #: chosen and predicted by an earlier model, of which counts are kept

    @property
    def key(self) -> tuple[str, ...]:
        """What a point is found again by; other source is another point."""
        return self.problem, self.kernel, json.dumps(self.config, sort_keys=True), self.source


def points(gpu: Gpu) -> list[Point]:
    """All points: of every family of every problem the model's best, and other raster orders."""
    found: list[Point] = []
    for text in PROBLEMS:
        problem = parse_problem(text)
        for one in kernels().values():
            if one.refusal(problem, gpu.limits) or unpriced(problem, one):
                continue
            accepted = one.legal_space(problem, gpu.limits).accepted
            if not len(accepted):
                continue
            priced = price(problem, one, accepted, gpu)
            found += [_point(priced, row, problem, gpu) for row in _rows(priced)]
    return found


def _rows(priced: PricedTable) -> list[int]:
    """The best row, and of rows with its other fields the extremes of the raster group.

    Where nothing else differs in the raster, the median of the ranking stands for other tiles.
    """
    ranking = priced.ranking().tolist()
    best = ranking[0]
    columns = priced.table.columns
    if "group_m" not in columns:
        return list(dict.fromkeys((best, ranking[len(ranking) // 2])))
    same = np.ones(len(priced), np.bool_)
    for name, column in columns.items():
        if name != "group_m":
            same &= column == column[best]
    rows = np.flatnonzero(same)
    groups = columns["group_m"][rows]
    return list(dict.fromkeys((best, int(rows[groups.argmin()]), int(rows[groups.argmax()]))))


def _point(priced: PricedTable, row: int, problem: Problem, gpu: Gpu) -> Point:
    one = priced.prediction(row)
    config = one.config.to_dict()
    raster = raster_of(problem, one.kernel, one.config, gpu)
    replayed = None
    if raster is not None:
        found = replay(raster, gpu.l2_bytes)
        replayed = {
            "dram_read_bytes": found.dram_read_bytes,
            "dram_write_bytes": found.dram_write_bytes,
            "l2_read_bytes": found.l2_read_bytes,
        }
    return Point(
        problem=str(problem),
        kernel=one.kernel,
        config=config,
        predicted={
            "dram_read_bytes": one.dram_read_bytes,
            "dram_write_bytes": one.dram_write_bytes,
            "l2_read_bytes": one.l2_read_bytes,
        },
        replayed=replayed,
        source=source_digest(kernel(one.kernel).template),
    )


def raster_of(problem: Problem, name: str, config: TileConfig, gpu: Gpu) -> Raster | None:
    """The order in which a family's tiles are visited; None where it is not a plain raster."""
    if not isinstance(problem, Gemm) or name not in RASTERED:
        return None
    m, n, k = problem.shape
    fields = config.to_dict()
    if fields.get("split_k", 1) > 1 or fields.get("stream_k", False):
        return None  # several programs a tile, and their partial sums in the L2
    cluster = fields.get("cluster", 1)
    tiles_m, tiles_n = -(-m // fields["block_m"]), -(-n // fields["block_n"])
    # Clusters lie along the side whose tiles they do not share: of hopper_gemm the smaller tile's.
    along_n = name == "hopper_gemm" and fields["block_m"] > fields["block_n"]
    clusters_m = tiles_m if along_n else -(-tiles_m // cluster)
    clusters_n = -(-tiles_n // cluster) if along_n else tiles_n
    activation, weight = problem.recipe.activation, problem.recipe.weight
    depth = fields.get("block_k") or 128 * 8 // activation.element.bits
    resident = gpu.sm_count * _per_sm(problem, config, gpu) // cluster
    return Raster(
        tiles_m=clusters_m,
        tiles_n=clusters_n,
        group_m=fields["group_m"],
        wave=resident,
        iterations=-(-k // depth),
        a_bytes=activation.storage_bytes(m, k) / clusters_m,
        b_bytes=weight.storage_bytes(n, k) / clusters_n,
        c_bytes=problem.output.storage_bytes(m, n) / (clusters_m * clusters_n),
    )


def _per_sm(problem: Gemm, config: TileConfig, gpu: Gpu) -> int:
    """CTAs that a multiprocessor holds: one where they walk over tiles, else as the model says."""
    table = ConfigTable.of([config])
    if "persistent" not in table.columns or table["persistent"][0]:
        return 1
    activation = problem.recipe.activation.element
    block_m, block_n, warps = table["block_m"], table["block_n"], table["num_warps"]
    loaded = (block_m + block_n) * table["block_k"] * activation.bits // 8
    registers = gemm_registers(
        block_m,
        block_n,
        warps * gpu.warp_threads,
        promoted=problem.recipe.blockwise,
        fragments=~uses_warpgroups(gpu, block_m, warps, element=activation.name),
        addressed_bytes=np.where(table["tma"], 0, loaded),
    )
    held = ctas_per_sm(
        gpu,
        registers=registers + BASE_REGISTERS,
        smem_bytes=smem_bytes(problem, table),
        warps=warps,
    )
    return int(held[0])


def _both(values: dict[str, float]) -> dict[str, float]:
    return values | {"dram_bytes": values["dram_read_bytes"] + values["dram_write_bytes"]}


def summary(found: Sequence[Point]) -> dict[str, Any]:
    """Median and 90th percentile of |predicted / counted - 1| by quantity, beside what is asked.

    Points of an earlier model are told apart: today's is not judged by its predictions.
    """
    today = [one for one in found if not one.earlier]
    counted = [one for one in today if one.counted is not None]
    content: dict[str, Any] = {
        "points": len(today),
        "counted": len(counted),
        "earlier": len(found) - len(today),
    }
    for column in ("predicted", "replayed"):
        for quantity, (median, p90) in ASKED.items():
            errors = [
                abs(_both(values)[quantity] / _both(one.counted)[quantity] - 1)
                for one in counted
                if (values := getattr(one, column)) is not None
                and one.counted is not None
                and _both(one.counted)[quantity] > 0
            ]
            if not errors:
                continue
            content[f"{column} {quantity}"] = {
                "points": len(errors),
                "median_error": statistics.median(errors),
                "p90_error": float(np.percentile(errors, 90)),
                "asked_median": median,
                "asked_p90": p90,
            }
    return content
