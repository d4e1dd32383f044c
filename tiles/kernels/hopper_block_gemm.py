"""Descriptor of the Hopper GEMM whose scales change along K on both sides, in CUDA C++."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, TensorFormat
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_rules import (
    MAX_STAGES,
    STAGE_BYTES,
    STATIC_UNIT_BYTES,
    STORE_BYTES,
    compile_hopper,
    product_refusal,
    row_refusal,
    shared_memory_rule,
    walk_rules,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = [
    "SCALES",
    "HopperBlockGemm",
    "HopperBlockGemmConfig",
    "block_scales",
    "block_smem_bytes",
    "consumer_tile",
]

OPERANDS = ("e4m3fn", "e5m2", "int8", "mxint8")
#: Rows and elements along K under one scale, on both sides, by the launcher's name.
SCALES = {
    "b32x32": (32, 32),
    "b64x64": (64, 64),
    "b128x128": (128, 128),
    "b1x32": (1, 32),
    "b1x128": (1, 128),
}
PLAIN_OUTPUTS = ("bf16", "fp16", "fp32")
CODED_OUTPUTS = (
    "int8.b32x32",
    "int8.b64x64",
    "int8.b128x128",
    "int8.b32x32+sr",
    "int8.b64x64+sr",
    "int8.b128x128+sr",
    "e4m3fn.b32x32",
    "e4m3fn.b64x64",
    "e4m3fn.b128x128",
)
#: Units of a set that its accumulators may run on over, and elements along K that these may have.
RUNS = (4, 8)
#: Rows of one wgmma: blocks of codes as high lie in one consumer.
CONSUMER_ROWS = 64
RUN_K = 256
#: Formats of scales whose values the launcher takes as fp32.
STORED = ("fp32", "e8m0fnu")


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperBlockGemmConfig(TileConfig):
    """One configuration of the Hopper GEMM with scales in blocks."""

    block_m: int  #: tile rows: 128, or 256 where every row has scales of its own
    block_n: int  #: tile columns
    stages: int  #: tiles of A and B in flight
    cluster: int  #: CTAs, neighbours along M, that share each tile of B by multicast
    group_m: int  #: raster group: cluster rows visited before moving along N
    store_buffers: int  #: staging buffers of a warpgroup, 8 KiB each
    consumers: int  #: warpgroups that multiply: 2, or 4 with 64 x 64 of the tile each
    sets: int  #: accumulators of a warpgroup: with 2 one is promoted while the other is filled
    parts: int  #: pieces of a set that are multiplied and promoted one by one
    spread: bool  #: sums of a piece may stand among the products behind it
    #: 1: integer sums of every unit are converted, exactly; more: they start as a float's bits,
    #: run on over so many units of a set, and are multiplied by differences of scales
    run: int = 1


def block_scales(activation: TensorFormat, weight: TensorFormat) -> str | None:
    """The launcher's name of a pair's scales, or ``None`` where it does not take them."""
    if activation.asymmetric or weight.asymmetric:
        return None
    shapes = []
    for scaling in (activation.scaling, weight.scaling):
        if scaling is None or scaling.two_level or scaling.stored.name not in STORED:
            return None
        shapes.append((scaling.rows, scaling.cols))
    same = shapes[0] == shapes[1]
    return next((name for name, shape in SCALES.items() if same and shape == shapes[0]), None)


def _mode(problem: Gemm) -> str:
    found = block_scales(problem.recipe.activation, problem.recipe.weight)
    assert found is not None
    return found


def _out_rows(problem: Gemm) -> int:
    """Rows under one scale of the output, 0 for numbers."""
    scaling = problem.output.scaling
    return 0 if scaling is None else scaling.rows or 0


def _runs(problem: Gemm) -> bool:
    """Whether accumulators may run on over units: integers under scales of blocks."""
    return problem.recipe.activation.element.name == "int8" and SCALES[_mode(problem)][0] > 1


def consumer_tile(table: ConfigTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of one consumer: they stand below each other as far as 64 rows reach."""
    m, n, consumers = table["block_m"], table["block_n"], table["consumers"]
    down = np.maximum(np.minimum(m // 64, consumers), 1)
    return m // down, n * down // np.maximum(consumers, 1)


def block_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    rows, quant_k = SCALES[_mode(problem)]
    m, n, stages = table["block_m"], table["block_n"], table["stages"]
    units = STAGE_BYTES // quant_k
    running = table["run"] > 1
    if rows == 1:
        scales = units * (m + n) * 4
    else:
        a_blocks, b_blocks = np.maximum(m // rows, 1), np.maximum(n // rows, 1)
        differences = (units + 1) * a_blocks * b_blocks
        count = np.where(running, differences, units * (a_blocks + b_blocks))
        scales = -(-count * 4 // 128) * 128
    ring = -(-stages * scales // 1024) * 1024
    tiles = stages * (m + n) * STAGE_BYTES
    staging = table["consumers"] * table["store_buffers"] * STORE_BYTES
    # Barriers, and where warps meet on the largest magnitudes of blocks of codes.
    used = 16 * stages + 8 * stages * running + 128
    static = -(-used // STATIC_UNIT_BYTES) * STATIC_UNIT_BYTES
    total: NDArray[np.int64] = static + tiles + ring + staging
    return total


class HopperBlockGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper_blocks.cu``: scales along K in steps from 32 on, both sides.

    Its output may be codes and scales.  Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_block_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperBlockGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if reason := product_refusal(self.name, problem, limits, OPERANDS):
            return reason
        assert isinstance(problem, Gemm)
        a, b = problem.recipe.activation, problem.recipe.weight
        if block_scales(a, b) is None:
            return (
                f"{self.name} takes scales of one shape of {', '.join(SCALES)} on both sides, "
                f"not {a} by {b}"
            )
        if problem.out not in (*PLAIN_OUTPUTS, *CODED_OUTPUTS):
            known = ", ".join((*PLAIN_OUTPUTS, *CODED_OUTPUTS))
            return f"{self.name} writes {known}, not {problem.out}"
        return row_refusal(problem, problem.output.element.name)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Gemm)
        return ConfigTable.product(
            HopperBlockGemmConfig,
            block_m=(128, 256),
            block_n=(64, 128),
            stages=(3, 4, 5, 6, 7, 8),
            cluster=(1, 2),
            group_m=(1, 4, 8, 16),
            store_buffers=(1, 2),
            consumers=(2, 4),
            sets=(1, 2),
            parts=(1, 2),
            spread=(False, True),
            run=(1, *RUNS) if _runs(problem) else (1,),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        of_rows = SCALES[_mode(problem)][0] == 1
        m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
        group, buffers = table["group_m"], table["store_buffers"]
        consumers, sets, parts = (table[f] for f in ("consumers", "sets", "parts"))
        run = table["run"]
        shared = (m == 128) & (n == 128) | (of_rows & (m == 256) & (n == 64))
        narrow = (m == 128) & (n == 64) & (consumers == 2)
        return [
            Rule(
                "tile shape",
                ~(shared | narrow),
                lambda r: (
                    f"tile {m[r]}x{n[r]} for {consumers[r]} consumers: it is 128x128, 256x64 where "
                    "every row has scales of its own, and for two 128x64"
                ),
            ),
            Rule(
                "shared block",
                (_out_rows(problem) > CONSUMER_ROWS)
                & ((m != _out_rows(problem)) | (n != _out_rows(problem)) | (consumers != 2)),
                lambda r: (
                    f"tile {m[r]}x{n[r]} of {consumers[r]} consumers for {problem.out}: a block of "
                    f"more than {CONSUMER_ROWS} rows is the tile of two consumers"
                ),
            ),
            Rule(
                "counts",
                (stages < 2)
                | (stages > MAX_STAGES)
                | ~np.isin(cluster, (1, 2))
                | ~np.isin(buffers, (1, 2))
                | ~np.isin(sets, (1, 2))
                | ~np.isin(consumers, (2, 4))
                | ~np.isin(parts, (1, 2))
                | (group < 1),
                lambda r: (
                    f"stages {stages[r]}, cluster {cluster[r]}, store_buffers {buffers[r]}, sets "
                    f"{sets[r]}, parts {parts[r]}, group_m {group[r]}: they lie in 2..8, 1..2, "
                    f"1..2, 1..2, 1..2 and from 1; consumers {consumers[r]}: 2 or 4"
                ),
            ),
            Rule(
                "parts",
                ((parts > 1) | (consumers > 2)) & (SCALES[_mode(problem)][1] == STAGE_BYTES),
                lambda r: (
                    f"consumers {consumers[r]}, parts {parts[r]}: with 128 of K under a scale "
                    "they are 2 and 1"
                ),
            ),
            Rule(
                "spread",
                table["spread"]
                & (
                    (sets * parts == 1)
                    | (SCALES[_mode(problem)][1] != 32)
                    | (of_rows & (consumers == 4))
                ),
                lambda r: (
                    f"spread with sets {sets[r]}, parts {parts[r]}, consumers {consumers[r]}: it "
                    "takes several pieces, 32 of K under a scale, and two consumers where every "
                    "row has scales of its own; the others' registers do not hold it"
                ),
            ),
            Rule(
                "registers",
                of_rows
                & isinstance(problem.recipe.activation.element, IntElement)
                & (consumers == 4)
                & (cluster == 2)
                & (sets * parts == 1),
                lambda r: (
                    "consumers 4 in a cluster of 2 with sets 1 and parts 1: integers whose rows "
                    "have scales of their own spill registers there"
                ),
            ),
            Rule(
                "run",
                ~np.isin(run, (1, *RUNS))
                | (run > 1)
                & (
                    (not _runs(problem))
                    | (run * SCALES[_mode(problem)][1] > RUN_K)
                    | (sets * parts == 1)
                    | (sets * parts * consumers > 8)
                    | (stages < 3)
                ),
                lambda r: (
                    f"run {run[r]} with sets {sets[r]}, parts {parts[r]}, consumers "
                    f"{consumers[r]}, stages {stages[r]}: it is 1; or 4 or 8 for int8 with scales "
                    f"of blocks, over {RUN_K} of K at most, three stages and several pieces, two "
                    "for four consumers, whose registers hold no more"
                ),
            ),
            shared_memory_rule(block_smem_bytes(problem, table), limits),
            *walk_rules(problem, table, 128),
        ]

    def default(self, problem: Problem, limits: Limits) -> HopperBlockGemmConfig:
        """Tiles of 128 x 128, two sets of accumulators, in parts where units are short."""
        assert isinstance(problem, Gemm)
        quant_k = SCALES[_mode(problem)][1]
        return first_legal(
            self,
            problem,
            limits,
            (
                HopperBlockGemmConfig(
                    block_m=128,
                    block_n=n,
                    stages=stages,
                    cluster=1,
                    group_m=8 if problem.m > 128 and problem.n > n else 1,
                    store_buffers=1,
                    consumers=2,
                    sets=2,
                    parts=1 if quant_k == STAGE_BYTES else 2,
                    spread=quant_k == 32,
                )
                for n in (128, 64)
                for stages in (5, 4, 3)
            ),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_blocks.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import gemm_hopper_blocks

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperBlockGemmConfig)
        scales, fields = _mode(problem), config.to_dict()
        return compile_hopper(
            self.template.with_suffix(".cu"),
            gemm_hopper_blocks.options(
                element=problem.recipe.activation.element.name,
                out=problem.out,
                scales=scales,
                config=fields,
            ),
            limits,
            threads=gemm_hopper_blocks.threads(fields),
            dynamic_smem_bytes=gemm_hopper_blocks.smem_bytes(scales=scales, config=fields),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_block_workload import HopperBlockWorkload

        assert isinstance(problem, Gemm)
        return HopperBlockWorkload(problem, device=device, seed=seed)
