"""Descriptor of the Hopper GEMM for few rows or few tiles: its configurations and their rules."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_block_rules import block_scales
from tiles.kernels.hopper_gemm import QUANT, hopper_refusal, scale_mode
from tiles.kernels.hopper_rules import (
    STAGE_BYTES,
    compile_hopper,
    product_refusal,
    row_refusal,
    shared_memory_rule,
)
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = [
    "MX",
    "MX_BLOCK_M",
    "MX_UNITS",
    "HopperSkinnyConfig",
    "HopperSkinnyGemm",
    "skinny_mode",
    "skinny_smem_bytes",
    "skinny_steps",
]

#: Rows of A in a tile, and rows of B with the accumulators that a thread then has room for: without
#: promotion, and with it.  As ``gemm_hopper_skinny.py`` has them, which imports what this may not.
BLOCK_M = (8, 16, 32, 48, 64, 96, 128, 176, 192, 256)
ACCUMULATORS = {64: (128, 128), 128: (128, 128), 192: (96, 64), 256: (64, 64)}
CLUSTERS = (1, 2, 4, 8)
MAX_STAGES = 24
#: The launcher's name of E8M0 scales for every 32 elements along K on both sides, the scales of a
#: row in a step, and the most rows of A in a tile by its rows of B.
MX, MX_UNITS = "mx", 4
MX_BLOCK_M = {64: 128, 128: 128, 192: 128}
MX_OPERANDS = ("e4m3fn", "e5m2", "int8")
#: Tiles of C that keep every multiprocessor of any GPU busy without a split of K.
ENOUGH_TILES = 1024
#: Of a default's CTA, so that four share a multiprocessor, or two of a wide tile.
DEFAULT_SMEM_BYTES, WIDE_SMEM_BYTES = 55 * 1024, 112 * 1024
#: Under MX scales three CTAs of up to 64 rows: their promotion hides one another's products.
MX_SMEM_BYTES = 75 * 1024
#: CTAs that a default's split of K aims at.
DEFAULT_CTAS = 264


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperSkinnyConfig(TileConfig):
    """One configuration of the Hopper GEMM for few rows or few tiles."""

    block_m: int  #: rows of A in a tile: the narrow side of the tensor cores' instruction
    block_n: int  #: rows of B in a tile, 64 a warpgroup
    stages: int  #: tiles of A and B in flight
    cluster: int  #: CTAs that share K, and add their parts through distributed shared memory
    interleaved: bool  #: each takes every ``cluster``-th step along K; otherwise neighbouring ones


def skinny_mode(activation: TensorFormat, weight: TensorFormat) -> str | None:
    """The launcher's scale mode of a pair of formats, or ``None`` where it has none."""
    if block_scales(activation, weight) == "b1x32":
        scalings = [fmt.scaling for fmt in (activation, weight)]
        bytes_each = all(s is not None and s.stored.name == "e8m0fnu" for s in scalings)
        return MX if bytes_each else None
    return scale_mode(activation, weight)


def skinny_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    mode = skinny_mode(problem.recipe.activation, problem.recipe.weight)
    m, n, stages = table["block_m"], table["block_n"], table["stages"]
    slot = -(-m * 4 // 128) * 128 if mode == "b1x128" else 0
    if mode == MX:
        slot = (m + n) * 4 * MX_UNITS
    ring = stages * ((m + n) * STAGE_BYTES + slot)
    staging = m * (n + 4) * 4
    rows = 4 * (m + n) if mode == "row" else 0
    total: NDArray[np.int64] = np.maximum(ring, staging) + 16 * stages + rows
    return total


def skinny_steps(problem: Gemm) -> int:
    """Steps along K, 128 bytes each, that the CTAs of a cluster share."""
    return -(-problem.k // (STAGE_BYTES * 8 // problem.recipe.activation.element.bits))


def _widest(m: int, mode: str | None) -> int:
    """The narrowest tile that holds M rows, or the widest there is."""
    fitting = [width for width in BLOCK_M if mode != "b128x128" or QUANT % width == 0]
    if mode == MX:
        fitting = [width for width in fitting if width <= max(MX_BLOCK_M.values())]
    return next((width for width in fitting if width >= m), fitting[-1])


class HopperSkinnyGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper_skinny.cu``: rows of B on the side of 64, K shared by CTAs.

    Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_skinny_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperSkinnyConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return hopper_refusal(self.name, problem, limits)
        if skinny_mode(problem.recipe.activation, problem.recipe.weight) != MX:
            return hopper_refusal(self.name, problem, limits)
        refused = coded_output(self.name, problem)
        refused = refused or product_refusal(self.name, problem, limits, MX_OPERANDS)
        return refused or row_refusal(problem, problem.out)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            HopperSkinnyConfig,
            block_m=BLOCK_M,
            block_n=tuple(ACCUMULATORS),
            stages=(2, 3, 4, 5, 6, 8, 12, 16),
            cluster=CLUSTERS,
            interleaved=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        mode = skinny_mode(problem.recipe.activation, problem.recipe.weight)
        promoted = problem.recipe.blockwise
        m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
        interleaved = table["interleaved"]
        held = m // 2 * (2 if promoted else 1)
        room, highest = np.zeros_like(n), np.full_like(n, m.max(initial=0))
        for width, counts in ACCUMULATORS.items():
            room = np.where(n == width, counts[promoted], room)
            if mode == MX:
                highest = np.where(n == width, MX_BLOCK_M.get(width, 0), highest)
        by_rows = mode == "b128x128"
        widest = _widest(problem.m, mode)
        tallest = max(64, -(-problem.n // 64) * 64)
        tiles = -(-problem.m // np.maximum(m, 1)) * -(-problem.n // np.maximum(n, 1))
        steps = skinny_steps(problem)
        share = -(-steps // np.maximum(cluster, 1))
        return [
            Rule(
                "tile shape",
                ~np.isin(m, BLOCK_M) | ~np.isin(n, tuple(ACCUMULATORS)),
                lambda r: (
                    f"tile {m[r]}x{n[r]}: it takes {', '.join(map(str, BLOCK_M))} rows and "
                    f"{', '.join(map(str, ACCUMULATORS))} columns"
                ),
            ),
            Rule(
                "counts",
                (stages < 2) | (stages > MAX_STAGES) | ~np.isin(cluster, CLUSTERS),
                lambda r: (
                    f"stages {stages[r]}, cluster {cluster[r]}: they lie in 2..{MAX_STAGES} and "
                    f"are one of {', '.join(map(str, CLUSTERS))}"
                ),
            ),
            Rule(
                "promotion",
                (by_rows & (QUANT % np.maximum(m, 1) != 0)) | (m > highest),
                lambda r: (
                    f"{m[r]} rows: tiles of {n[r]} columns have {highest[r]} under MX scales"
                    if mode == MX
                    else f"{m[r]} rows: a tile lies under one row of 128x128 scales of A"
                ),
            ),
            Rule(
                "registers",
                (held > room) & (mode != MX),
                lambda r: (
                    f"{held[r]} accumulators a thread > {room[r]}, what {n[r] // 64} warpgroups "
                    "leave room for"
                ),
            ),
            shared_memory_rule(skinny_smem_bytes(problem, table), limits),
            Rule(
                "oversized tile",
                (m > widest) | (n > tallest),
                lambda r: f"tile {m[r]}x{n[r]} for a product of {problem.m}x{problem.n}",
            ),
            Rule(
                "narrow tile",
                (m < 64) & (4 * m < problem.m),
                lambda r: f"tiles of {m[r]} rows read B over and over for {problem.m} rows",
            ),
            Rule(
                "split",
                (cluster > steps) | ((cluster > 1) & (tiles >= ENOUGH_TILES)),
                lambda r: f"{cluster[r]} CTAs share {steps} steps along K of {tiles[r]} tiles",
            ),
            Rule(
                "order of steps",
                interleaved & ((cluster == 1) | (share == 1)),
                lambda r: f"{steps} steps of {cluster[r]} CTAs: one order is like the other",
            ),
            Rule(
                "stages",
                stages > np.maximum(2, share),
                lambda r: f"{stages[r]} stages for {share[r]} steps along K",
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> HopperSkinnyConfig:
        """A tile as wide as M, up to 128; K split until there are two CTAs a multiprocessor."""
        assert isinstance(problem, Gemm)
        mode = skinny_mode(problem.recipe.activation, problem.recipe.weight)
        m = min(_widest(problem.m, mode), QUANT)
        n = 128 if problem.m > 64 and problem.n > 64 else 64
        steps = skinny_steps(problem)
        tiles = -(-problem.m // m) * -(-problem.n // n)
        cluster = max(
            c for c in CLUSTERS if c == 1 or (c * tiles <= DEFAULT_CTAS and 4 * c <= steps)
        )
        most = DEFAULT_SMEM_BYTES if m <= 32 else WIDE_SMEM_BYTES
        if mode == MX and 32 < m <= 64:
            most = MX_SMEM_BYTES
        configs = [
            HopperSkinnyConfig(
                block_m=m, block_n=n, stages=stages, cluster=cluster, interleaved=False
            )
            for stages in (8, 6, 5, 4, 3, 2)
        ]
        small = skinny_smem_bytes(problem, ConfigTable.of(configs)) <= most
        fitting = [c for c, fits in zip(configs, small, strict=True) if fits or c.stages == 2]
        return first_legal(self, problem, limits, fitting)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_skinny.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import gemm_hopper_skinny

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperSkinnyConfig)
        scales = skinny_mode(problem.recipe.activation, problem.recipe.weight)
        assert scales is not None
        fields = config.to_dict()
        return compile_hopper(
            self.template.with_suffix(".cu"),
            gemm_hopper_skinny.options(
                element=problem.recipe.activation.element.name,
                out=problem.out,
                scales=scales,
                config=fields,
            ),
            limits,
            threads=gemm_hopper_skinny.threads(fields),
            dynamic_smem_bytes=gemm_hopper_skinny.smem_bytes(scales=scales, config=fields),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_skinny_workload import HopperSkinnyWorkload

        assert isinstance(problem, Gemm)
        return HopperSkinnyWorkload(problem, device=device, seed=seed)
