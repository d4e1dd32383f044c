"""Descriptor of weight-only products in Triton: what it serves, its configurations, its rules."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat, element
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = [
    "MAX_SPLIT_TILES",
    "TritonWeightOnly",
    "WeightOnlyConfig",
    "group_columns",
    "halves",
    "promoted",
    "registers",
    "smem_bytes",
    "uses_wgmma",
]

#: Elements of activations and of weights that the template takes.
ACTIVATIONS = ("bf16", "fp16")
WEIGHTS = ("int4", "uint4", "int8", "e4m3fn", "e2m1fn")
#: Groups along K below a panel that 4-bit codes may have.
SMALL_GROUPS = (16, 32, 64)
#: Bytes of a row of a panel of packed weights, and the columns that a product takes at a time.
PANEL_BYTES = 64
#: Panels that a share of a split K should have, so that its loop gets going.
LEAST_PANELS = 4
#: Tiles of a split K that the template's workspace counts.
MAX_SPLIT_TILES = 2**14
_CAPABILITY = 80
_WGMMA_CAPABILITY = 90
_MAX_REGISTERS = 255
#: What a thread needs beside accumulators and operands: addresses, counters, scales.
_OTHER_REGISTERS = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyConfig(TileConfig):
    """One configuration of the weight-only product."""

    block_m: int  #: CTA tile along M (tokens), elements
    block_n: int  #: CTA tile along N (output channels), elements
    group_m: int  #: raster group: tiles along M visited before moving along N
    split_k: int  #: programs that share the K extent of a tile
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: loads go through tensor-memory-access descriptors
    fold: bool  #: scales of groups multiply the weights, rounded, instead of partial sums


def halves(weight: TensorFormat) -> int:
    """Codes in a byte."""
    return 8 // weight.element.bits


def group_columns(weight: TensorFormat) -> int:
    """Columns under one scale; 0 where scales do not change along K."""
    return (weight.scaling.cols or 0) if weight.scaling is not None else 0


def promoted(problem: Gemm, table: ConfigTable) -> NDArray[np.bool_]:
    """Where partial sums are scaled on their way into a second accumulator."""
    grouped = group_columns(problem.recipe.weight) > 0
    return np.asarray(~table["fold"] & grouped, np.bool_)


def uses_wgmma(table: ConfigTable, capability: int) -> NDArray[np.bool_]:
    """Where Triton multiplies by wgmma: read off what it compiles for sm_90."""
    wide = (table["block_n"] >= 64) & (table["block_m"] >= 16) & (table["num_warps"] >= 4)
    return np.asarray(wide & (capability == _WGMMA_CAPABILITY), np.bool_)


def smem_bytes(problem: Gemm, table: ConfigTable, capability: int) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes: the pipeline, or the staged output.

    The fp32 sums of a share of K are staged as the output is.

    Weights leave their buffer for registers before they are multiplied, so one stage fewer holds
    them; so it is with activations where ``mma.sync`` reads them from registers as well.
    """
    m, n, stages = table["block_m"], table["block_n"], table["num_stages"]
    w_stages = np.maximum(stages - 1, 1)
    x_stages = np.where(uses_wgmma(table, capability), stages, w_stages)
    pipeline = w_stages * n * PANEL_BYTES + x_stages * m * 128 * halves(problem.recipe.weight)
    out_bytes = element(problem.out).bits // 8
    staged = m * n * np.where(table["split_k"] > 1, max(4, out_bytes), out_bytes)
    barriers = 2048
    total: NDArray[np.int64] = np.maximum(pipeline, staged) + barriers
    return total


def registers(problem: Gemm, table: ConfigTable, warp_threads: int) -> NDArray[np.int64]:
    """Registers a thread takes, estimated: accumulators, decoded and packed weights, the rest."""
    threads = np.maximum(table["num_warps"] * warp_threads, 1)
    sums = table["block_m"] * table["block_n"] * np.where(promoted(problem, table), 2, 1)
    decoded = table["block_n"] * 64 * halves(problem.recipe.weight) // 2
    packed = table["block_n"] * PANEL_BYTES // 4
    total: NDArray[np.int64] = -(-(sums + decoded + packed) // threads) + _OTHER_REGISTERS
    return total


class TritonWeightOnly(Kernel):
    """``triton/gemm_weight_only.py``: bf16 or fp16 activations times packed low-bit weights."""

    name: ClassVar[str] = "triton_weight_only"
    backend: ClassVar[Backend] = Backend.TRITON
    config_type: ClassVar[type[TileConfig]] = WeightOnlyConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        if reason := coded_output(self.name, problem):
            return reason
        recipe = problem.recipe
        if recipe.outliers is not None:
            return f"{self.name} has no second product for outliers: {recipe.outliers}"
        activation, weight = recipe.activation, recipe.weight
        if activation.scaling is not None or activation.element.name not in ACTIVATIONS:
            return f"{self.name} takes plain {' or '.join(ACTIVATIONS)} activations: {activation}"
        if reason := self._unpacked(weight):
            return reason
        assert weight.scaling is not None
        if weight.scaling.stored.name == "e8m0fnu" and activation.element.name == "fp16":
            return "E8M0 scales need the range of bf16: activations are fp16"
        if limits.vendor != "nvidia":
            return f"{limits.gpu}: weights are decoded by instructions of NVIDIA's GPUs"
        if limits.capability < _CAPABILITY:
            return f"{limits.gpu}: capability {limits.capability} < {_CAPABILITY}"
        return None

    def _unpacked(self, weight: TensorFormat) -> str | None:
        """Why the template decodes no weights of this format; None: it does."""
        if weight.element.name not in WEIGHTS or weight.scaling is None:
            return f"{self.name} takes scaled {', '.join(WEIGHTS)} weights, not {weight}"
        scaling = weight.scaling
        if scaling.rows is None and scaling.cols is not None:
            return f"{weight}: scales of whole columns do not go with a sum along K"
        group, panel = group_columns(weight), PANEL_BYTES * halves(weight)
        if group == 0:
            return f"{weight}: zero points go with groups along K" if weight.asymmetric else None
        if group % panel and not (halves(weight) == 2 and group in SMALL_GROUPS):
            small = f"{', '.join(map(str, SMALL_GROUPS))} or " if halves(weight) == 2 else ""
            return f"{weight}: groups along K are {small}multiples of {panel}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            WeightOnlyConfig,
            block_m=(8, 16, 32, 64, 128, 256),
            block_n=(32, 64, 128, 256),
            group_m=(1, 8),
            split_k=(1, 2, 4, 8, 16),
            num_warps=(2, 4, 8),
            num_stages=(2, 3, 4, 6, 8),
            tma=(False, True),
            fold=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """The legality rules, cheapest reason first; a configuration is counted by its first."""
        assert isinstance(problem, Gemm)
        groups: tuple[Callable[[Gemm, ConfigTable, Limits], list[Rule]], ...] = (
            _shape_rules,
            _scale_rules,
            _tma_rules,
            _resource_rules,
            _waste_rules,
        )
        return [rule for group in groups for rule in group(problem, table, limits)]

    def default(self, problem: Problem, limits: Limits) -> WeightOnlyConfig:
        """By M: narrow tiles and a split K for a decode step, square tiles for the rest.

        The first candidate that the gate accepts is taken.
        """
        assert isinstance(problem, Gemm)
        panels = -(-problem.k // (PANEL_BYTES * halves(problem.recipe.weight)))
        group = group_columns(problem.recipe.weight)
        block_m = min(128, max(8, _next_power_of_two(problem.m)))
        block_n, warps = (64, 4) if problem.m <= 128 else (128, 8)
        # Enough programs for several on every multiprocessor of a large GPU, if K has them.
        tiles = -(-problem.m // block_m) * -(-problem.n // block_n)
        split = 1
        while split < 16 and tiles * split < 512 and panels >= 2 * split * LEAST_PANELS:
            split *= 2
        for m in (block_m, 64, 32, 16, 8):
            for n, w in ((block_n, warps), (block_n, warps // 2), (64, 4), (64, 2), (32, 2)):
                for stages in (4, 3, 2):
                    config = WeightOnlyConfig(
                        block_m=m,
                        block_n=n,
                        group_m=8 if problem.m > m else 1,
                        split_k=split,
                        num_warps=w,
                        num_stages=stages,
                        tma=False,
                        fold=0 < group < 64,
                    )
                    table = ConfigTable.of([config])
                    if not any(r.broken[0] for r in self.rules(problem, table, limits)):
                        return config
        raise ValueError(f"{self.name} has no default for {problem} on {limits.gpu}")

    @property
    def template(self) -> Path:
        return Path(__file__).with_name("triton") / "gemm_weight_only.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.weight_only_workload import WeightOnlyWorkload

        assert isinstance(problem, Gemm)
        return WeightOnlyWorkload(problem, device=device, seed=seed)

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.offline_triton import META, facts_of
        from tiles.kernels.weight_only_workload import WeightOnlyWorkload

        assert isinstance(problem, Gemm)
        workload = WeightOnlyWorkload(problem, device=META, seed=0)
        return facts_of(lambda: workload.compile(config), limits)


def _next_power_of_two(value: int) -> int:
    return 1 << (value - 1).bit_length()


def _shape_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the compiler cannot build, whatever the GPU's size."""
    m, n, warps = table["block_m"], table["block_n"], table["num_warps"]
    powers = np.logical_and.reduce([(x >= 1) & (x & (x - 1) == 0) for x in (m, n, warps)])
    counts = np.minimum.reduce([table["num_stages"], table["group_m"], table["split_k"]])
    return [
        Rule(
            "tile shape",
            ~powers | (m < 8) | (n < 16) | (counts < 1),
            lambda r: (
                f"block_m {m[r]} (at least 8), block_n {n[r]} (at least 16), num_warps {warps[r]} "
                "must be powers of two, num_stages, group_m and split_k at least 1"
            ),
        ),
    ]


def _scale_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Where scales can be applied."""
    fold, group = table["fold"], group_columns(problem.recipe.weight)
    # Scales or zero points that a tile's weights are decoded with: with fewer of them than threads
    # Triton decodes in a layout of theirs and moves the weights through shared memory.
    values = table["block_n"] * (max(1, 64 // group) if group else 1)
    threads = table["num_warps"] * limits.warp_threads
    carried = fold | problem.recipe.weight.asymmetric
    return [
        Rule(
            "fold",
            (fold & (group == 0)) | (~fold & (0 < group < 64)),
            lambda r: (
                f"{problem.recipe.weight} has no groups of scales to fold into the weights"
                if group == 0
                else f"groups of {group} columns need fold: a promoted product has 64"
            ),
        ),
        Rule(
            "layout",
            carried & (values < threads),
            lambda r: (
                f"{values[r]} scales a tile for {threads[r]} threads: decoded weights would go "
                "through shared memory"
            ),
        ),
    ]


def _tma_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What tensor-memory-access descriptors need."""
    tma = table["tma"]
    has_tma = "tma" in limits.features
    return [
        Rule("tma", tma & (not has_tma), lambda r: f"{limits.gpu} has no tensor memory access"),
        Rule(
            "tma alignment",
            tma & (problem.k % 8 != 0),
            lambda r: f"tma needs rows of multiples of 16 B, got K {problem.k} of 2 B",
        ),
    ]


def _resource_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What a CTA takes of a multiprocessor."""
    threads = table["num_warps"] * limits.warp_threads
    smem = smem_bytes(problem, table, limits.capability)
    taken = registers(problem, table, limits.warp_threads)
    per_thread = np.minimum(_MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
    return [
        Rule(
            "threads",
            threads > limits.threads_per_sm,
            lambda r: f"{threads[r]} threads > {limits.threads_per_sm} on {limits.gpu}",
        ),
        Rule(
            "shared memory",
            smem > limits.smem_bytes_per_cta,
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
        Rule(
            "registers",
            taken > per_thread,
            lambda r: f"accumulators and weights take {taken[r]} of {per_thread[r]} registers",
        ),
    ]


def _waste_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Configurations that equal, or cannot beat, another one of the space."""
    m, n, split = table["block_m"], table["block_n"], table["split_k"]
    warps, stages, group = table["num_warps"], table["num_stages"], table["group_m"]
    panels = -(-problem.k // (PANEL_BYTES * halves(problem.recipe.weight)))
    share = -(-panels // np.maximum(split, 1))
    tiles = -(-problem.m // np.maximum(m, 1)) * -(-problem.n // np.maximum(n, 1))
    most_m = max(16, 2 * _next_power_of_two(problem.m))
    most_n = max(64, 2 * _next_power_of_two(problem.n))
    tiles_m = -(-problem.m // np.maximum(m, 1))
    return [
        Rule(
            "oversized tile",
            (m > most_m) | (n > most_n),
            lambda r: f"tile {m[r]}x{n[r]} for an output of {problem.m}x{problem.n}",
        ),
        # An instruction has 16 (wgmma: 4 warps, 64) rows of weights; more warps decode them again.
        Rule(
            "warps",
            n // 16 < warps,
            lambda r: f"{warps[r]} warps share the {n[r] // 16} m16 parts of the weights",
        ),
        Rule(
            "split",
            (split > 1) & ((share < LEAST_PANELS) | (share * (split - 1) >= panels)),
            lambda r: (
                f"split_k {split[r]} of {panels} panels: shares of {share[r]}, one may be empty"
            ),
        ),
        Rule(
            "split tiles",
            (split > 1) & (tiles > MAX_SPLIT_TILES),
            lambda r: f"split_k {split[r]} of {tiles[r]} tiles: {MAX_SPLIT_TILES} are counted",
        ),
        Rule(
            "stages",
            stages > np.maximum(2, share + 1),
            lambda r: f"{stages[r]} stages for {share[r]} panels",
        ),
        Rule(
            "raster",
            (group > 1) & (tiles_m == 1),
            lambda r: f"group_m {group[r]} equals group_m 1: there is one row of tiles",
        ),
    ]
