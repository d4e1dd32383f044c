"""Descriptor of the Hopper GEMM in CUDA C++: its configurations and which of them are legal."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import Scaling, TensorFormat
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm import MAX_INT32_K
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
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, GroupedGemm, Problem

__all__ = [
    "CONSUMERS",
    "HopperGemm",
    "HopperGemmConfig",
    "hopper_facts",
    "hopper_refusal",
    "hopper_smem_bytes",
    "scale_mode",
]

OPERANDS = ("bf16", "fp16", "e4m3fn", "e5m2", "int8")
CONSUMERS = 2
QUANT = 128
#: Columns of a tile, and where its products are chained.  As ``gemm_hopper.py`` has them, which
#: imports what this may not.
BLOCK_N = (64, 96, 112, 128, 160, 176, 192, 208, 224, 240, 256)
CHAINED_N = (64, 112, 128, 160, 176, 192)
#: Registers that the products of a consumer thread may take, sums of promoted ones included.
MAX_ACCUMULATORS = 128

#: Scalings of (activations, weights) by the launcher's name for them.
_MODES = {
    (None, None): "none",
    ("tensor", "tensor"): "tensor",
    ("row", "row"): "row",
    ("b1x128", "b128x128"): "b1x128",
    ("b128x128", "b128x128"): "b128x128",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperGemmConfig(TileConfig):
    """One configuration of the Hopper GEMM."""

    block_m: int  #: tile rows
    block_n: int  #: tile columns
    stages: int  #: tiles of A and B in flight
    #: CTAs that share by multicast the larger of their tiles: neighbours along M that of B, and
    #: neighbours along N that of A where it is higher than B's is wide
    cluster: int
    group_m: int  #: raster group: cluster rows visited before moving along N
    pingpong: bool  #: the two consumer warpgroups have a tile each; otherwise they share one
    store_buffers: int  #: staging buffers of a warpgroup, 8 KiB each
    #: where scales change along K: products follow one another through one set of accumulators,
    #: also from tile to tile; otherwise through two, and a tile begins when the last is stored
    chained: bool = False


def scale_mode(activation: TensorFormat, weight: TensorFormat) -> str | None:
    """The launcher's scale mode of a pair of formats, or ``None`` where it has none."""
    return _MODES.get((_name(activation.scaling), _name(weight.scaling)))


def _name(scaling: Scaling | None) -> str | None:
    return None if scaling is None else str(scaling)


def hopper_refusal(name: str, problem: Problem, limits: Limits) -> str | None:
    """Why a family of plain products in CUDA C++ cannot serve a problem, or ``None``.

    Args:
        name: the family's.
    """
    if isinstance(problem, Gemm) and (reason := coded_output(name, problem)):
        return reason
    if reason := product_refusal(name, problem, limits, OPERANDS):
        return reason
    assert isinstance(problem, Gemm)
    recipe = problem.recipe
    a, b = recipe.activation, recipe.weight
    mode = scale_mode(a, b)
    along_k = recipe.blockwise and a.element.bits != 8
    if mode is None or along_k or not (a.plain and b.plain):
        return f"{name} has no scale mode for {a} by {b}"
    if a.element.name == "int8" and not recipe.blockwise and problem.k > MAX_INT32_K:
        return f"K {problem.k} > {MAX_INT32_K}: the int32 accumulator could overflow"
    return row_refusal(problem, problem.out)


def hopper_smem_bytes(problem: Gemm, table: ConfigTable, *, groups: int = 0) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    mode = scale_mode(problem.recipe.activation, problem.recipe.weight)
    stages, m = table["stages"], table["block_m"]
    tiles = stages * (m + table["block_n"]) * STAGE_BYTES
    scale_pitch = -(-(m + (4 if groups else 0)) * 4 // 128) * 128
    scales = -(-stages * scale_pitch // 1024) * 1024 if mode == "b1x128" else np.zeros_like(m)
    staging = CONSUMERS * table["store_buffers"] * STORE_BYTES
    columns = CONSUMERS * table["block_n"] * 4 if mode == "row" else 0
    tiles_of_groups = 12 * groups + 4 if groups else 0
    used = 16 * stages + columns + tiles_of_groups  # barriers, scales of columns, the groups' table
    static = -(-used // STATIC_UNIT_BYTES) * STATIC_UNIT_BYTES
    total: NDArray[np.int64] = static + tiles + scales + staging
    return total


def hopper_facts(
    problem: Gemm, config: HopperGemmConfig, limits: Limits, *, groups: int = 0
) -> CompileFacts | None:
    """Compile facts of ``gemm_hopper.cu`` for a product, or for one of ``groups``."""
    from tiles.kernels.cuda import gemm_hopper

    scales = scale_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    fields = config.to_dict()
    return compile_hopper(
        Path(gemm_hopper.__file__).with_suffix(".cu"),
        gemm_hopper.options(
            element=problem.recipe.activation.element.name,
            out=problem.out,
            scales=scales,
            config=fields,
            groups=groups,
        ),
        limits,
        threads=gemm_hopper.THREADS,
        dynamic_smem_bytes=gemm_hopper.smem_bytes(scales=scales, config=fields, groups=groups),
        stages=config.stages,
    )


class HopperGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper.cu``: TMA, wgmma, warp-specialised; capability 9.0 alone."""

    name: ClassVar[str] = "hopper_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        return hopper_refusal(self.name, problem, limits)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        walks = {
            "stages": (3, 4, 5, 6, 7, 8),
            "cluster": (1, 2),
            "group_m": (1, 4, 8, 16),
            "store_buffers": (1, 2),
        }
        plain = ConfigTable.product(
            HopperGemmConfig,
            block_m=(64, 128, 256),
            block_n=BLOCK_N,
            pingpong=(False, True),
            **walks,
        )
        assert isinstance(problem, (Gemm, GroupedGemm))
        if not problem.recipe.blockwise:
            return plain
        chained = ConfigTable.product(
            HopperGemmConfig,
            block_m=(64 * CONSUMERS, 128 * CONSUMERS),
            block_n=CHAINED_N,
            pingpong=(False,),
            chained=(True,),
            # Four: a tile of 256 x 128 leaves without waiting for a buffer.
            **walks | {"store_buffers": (1, 2, 4)},
        )
        return ConfigTable.joined([plain, chained])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        promoted = problem.recipe.blockwise
        m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
        group, pingpong, buffers = (table[f] for f in ("group_m", "pingpong", "store_buffers"))
        chained = table["chained"]
        rows = np.where(pingpong, m, m // CONSUMERS)
        held = rows * n // 128 * np.where(chained, 1, 2 if promoted else 1)
        # The lowest tile there is serves any M: both warpgroups share it where products promote.
        lowest = 64 * (CONSUMERS if promoted else 1)
        return [
            Rule(
                "tile shape",
                ((rows != 64) & (rows != 128))
                | ~np.where(chained, np.isin(n, CHAINED_N), np.isin(n, BLOCK_N)),
                lambda r: (
                    f"tile {m[r]}x{n[r]}: a warpgroup takes 64 or 128 rows and "
                    f"{', '.join(map(str, CHAINED_N if chained[r] else BLOCK_N))} columns, here it "
                    f"would take {rows[r]} rows"
                ),
            ),
            Rule(
                "counts",
                (stages < 2)
                | (stages > MAX_STAGES)
                | ~np.isin(cluster, (1, 2))
                | ~np.isin(buffers, (1, 2, 4))
                | (group < 1),
                lambda r: (
                    f"stages {stages[r]}, cluster {cluster[r]}, store_buffers {buffers[r]}, "
                    f"group_m {group[r]}: they lie in 2..8, are 1 or 2, 1, 2 or 4, and from 1"
                ),
            ),
            Rule(
                "promotion",
                promoted & (pingpong | (~chained & ((rows != 64) | (QUANT % n > 0)))),
                lambda r: (
                    f"tile {m[r]}x{n[r]}: scales along K take both warpgroups on one tile, and "
                    f"unless products are chained 64 rows of each and {QUANT} columns or a half"
                ),
            ),
            Rule(
                "chain",
                chained & (not promoted),
                lambda r: (
                    "chained products are for scales along K: without them nothing is promoted"
                ),
            ),
            Rule(
                "registers",
                held > MAX_ACCUMULATORS,
                lambda r: f"{held[r]} accumulators a thread > {MAX_ACCUMULATORS}",
            ),
            shared_memory_rule(hopper_smem_bytes(problem, table), limits),
            *walk_rules(problem, table, lowest),
        ]

    def default(self, problem: Problem, limits: Limits) -> HopperGemmConfig:
        """Tiles of 128 x 128, lower for few rows; turns where nothing is promoted."""
        assert isinstance(problem, Gemm)
        promoted = problem.recipe.blockwise
        return first_legal(
            self,
            problem,
            limits,
            (
                HopperGemmConfig(
                    block_m=128 if promoted else m,
                    block_n=n,
                    stages=stages,
                    cluster=1,
                    group_m=8 if problem.m > 128 and problem.n > n else 1,
                    pingpong=not promoted,
                    store_buffers=1,
                )
                for m, n in ((128, 128), (64, 128), (128, 64), (64, 64))
                for stages in (5, 4, 3)
            ),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperGemmConfig)
        return hopper_facts(problem, config, limits)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_gemm_workload import HopperGemmWorkload

        assert isinstance(problem, Gemm)
        return HopperGemmWorkload(problem, device=device, seed=seed)
