"""Descriptor of the block quantisation in CUDA C++, for CuPy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats.rounding import Rounding
from tiles.formats.scaling import ScaleRule
from tiles.kernels.base import Backend, Limits, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda.quantize_geometry import (
    MAX_SHARED_BYTES,
    MIN_TURNED_BLOCK,
    Geometry,
    power_of_two,
)
from tiles.kernels.quantize_family import (
    MAX_PROGRAMS,
    MAX_REGISTERS,
    MAX_THREADS,
    QuantizeKernel,
    extents_of,
    powers_of_two,
    scaling_of,
    source_bytes,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import next_power_of_two
from tiles.problems import Problem, Quantize

__all__ = ["CudaQuantize", "CudaQuantizeConfig", "kept_words"]

#: Registers that a thread needs beside the words of its block.
CUDA_BASE_REGISTERS = 40
#: Vectors of a block that a thread has where nothing was searched: faster than 4 on an H200.
DEFAULT_ITEMS = 8
#: A thread keeps at most this many 4-byte words of its blocks in registers.
MAX_KEPT_WORDS = 64


#: Of a square block that is turned: more do not fit a CTA's registers and shared memory.
MAX_TURNED_ELEMENTS = 128 * 128


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaQuantizeConfig(TileConfig):
    """One configuration of the CUDA C++ quantisation kernel."""

    threads: int  #: threads of a CTA
    lanes: int  #: threads that share one quantisation block, a power of two
    vector: int  #: adjacent elements that a thread handles at once: 8 bf16 elements are 16 bytes
    unroll: int  #: quantisation blocks that every group of lanes handles, their loads in flight


def kept_words(problem: Quantize, table: ConfigTable) -> NDArray[np.int64]:
    """4-byte words of one quantisation block that each of its threads handles; at most 64 are kept
    in registers, longer blocks are read twice."""
    rows, cols = extents_of(problem)
    vector = np.maximum(table["vector"], 1)
    vectors = rows * -(-cols // vector)
    words = np.maximum(vector * source_bytes(problem) // 4, 1)
    kept: NDArray[np.int64] = -(-vectors // np.maximum(table["lanes"], 1)) * words
    return kept


def is_stochastic(problem: Quantize) -> bool:
    """True where codes are rounded stochastically."""
    return problem.target.rounding is Rounding.STOCHASTIC


class CudaQuantize(QuantizeKernel):
    """``tiles/kernels/cuda/quantize_blocks.cu``: row and block scalings, NVIDIA GPUs only.

    int8 also with stochastic rounding, square blocks also with the transposed copy in one pass.
    """

    name: ClassVar[str] = "cuda_quantize"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = CudaQuantizeConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if reason := super().refusal(problem, limits):
            return reason
        assert isinstance(problem, Quantize)
        if limits.vendor != "nvidia":
            return f"{self.name} is CUDA C++ and {limits.gpu} is not an NVIDIA GPU"
        if limits.capability < 80:
            return f"{self.name} needs capability 80, {limits.gpu} has {limits.capability}"
        target, scaling = problem.target, scaling_of(problem)
        stochastic = target.rounding is Rounding.STOCHASTIC
        if target.rounding is not Rounding.NEAREST_EVEN and not stochastic:
            return f"{self.name} rounds to nearest even or stochastically, not {target}"
        if stochastic and target.element.name != "int8":
            return f"{self.name} rounds int8 stochastically, not {target.element}"
        if not target.saturate:
            return f"{self.name} saturates, and {target} does not"
        if scaling.stored.name != "fp32" or scaling.rule is not ScaleRule.ABSMAX:
            return f"{self.name} writes fp32 absmax scales, not {target}"
        if problem.swizzled:
            return f"{self.name} writes no swizzled scales: use triton_quantize_tiles"
        if scaling.rows is None:
            return f"{self.name} serves row and block scalings, not {scaling}: use triton_quantize"
        if problem.transposed:
            square = scaling.rows == scaling.cols and power_of_two(scaling.rows)
            if not square or scaling.rows < MIN_TURNED_BLOCK:
                return (
                    f"{self.name} writes transposed copies of square blocks of powers of two from "
                    f"{MIN_TURNED_BLOCK} on, not of {scaling}: use triton_quantize_tiles"
                )
            if scaling.rows**2 > MAX_TURNED_ELEMENTS:
                return (
                    f"{self.name} turns blocks of {MAX_TURNED_ELEMENTS} elements at most in shared "
                    f"memory, not {scaling}"
                )
        blocks = target.scale_count(problem.rows, problem.cols)
        if blocks > MAX_PROGRAMS:
            return f"{self.name} serves at most {MAX_PROGRAMS} blocks, {problem} has {blocks}"
        return None

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            CudaQuantizeConfig,
            threads=[128, 256, 512, 1024],
            lanes=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
            vector=[1, 4, 8, 16],
            unroll=[1, 2, 4],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Quantize)
        threads, lanes = table["threads"], table["lanes"]
        vector, unroll = table["vector"], table["unroll"]
        rows, cols = extents_of(problem)
        blockwise = scaling_of(problem).cols is not None
        vectors = rows * -(-cols // np.maximum(vector, 1))
        words = kept_words(problem, table)
        kept = words <= MAX_KEPT_WORDS
        one = np.maximum(vector * source_bytes(problem) // 4, 1)
        registers = CUDA_BASE_REGISTERS + np.where(kept, words * unroll, one)
        available = np.minimum(MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
        useful = 1 << np.ceil(np.log2(np.maximum(vectors, 1))).astype(np.int64)
        turned = self._turned_rules(problem, table, kept) if problem.transposed else []
        return [
            Rule(
                "threads",
                (threads < 32) | (threads > MAX_THREADS) | (threads % 32 != 0),
                lambda i: f"{threads[i]} threads: a multiple of 32 up to {MAX_THREADS} is needed",
            ),
            Rule(
                "vector",
                ~np.isin(vector, (1, 4, 8, 16)) | (blockwise & (cols % np.maximum(vector, 1) != 0)),
                lambda i: (
                    f"vector {vector[i]}: it must be 1, 4, 8 or 16 and divide the {cols} columns "
                    "of a block"
                ),
            ),
            Rule(
                "lanes",
                ~powers_of_two(lanes) | (lanes > threads) | (threads % np.maximum(lanes, 1) != 0),
                lambda i: (
                    f"{lanes[i]} lanes: a power of two that divides {threads[i]} threads is needed"
                ),
            ),
            Rule(
                "idle lanes",
                lanes > useful,
                lambda i: f"{lanes[i]} lanes for the {vectors[i]} vectors of a block",
            ),
            Rule(
                "unroll",
                (unroll < 1) | ((unroll > 1) & ~kept),
                lambda i: (
                    f"unroll {unroll[i]}: it must be 1 where {words[i]} words a thread > "
                    f"{MAX_KEPT_WORDS} are read twice"
                ),
            ),
            Rule(
                "registers",
                registers > available,
                lambda i: (
                    f"about {registers[i]} registers a thread > {available[i]} at {threads[i]} "
                    f"threads on {limits.gpu}"
                ),
            ),
            *turned,
        ]

    def _turned_rules(
        self, problem: Quantize, table: ConfigTable, kept: NDArray[np.bool_]
    ) -> list[Rule]:
        """What a transposed copy in the same pass asks for."""
        rows, cols = extents_of(problem)
        found = [
            Geometry(
                block=(rows, cols),
                cols=problem.cols,
                lanes=max(int(lanes), 1),
                vector=max(int(vector), 1),
                threads=int(threads),
                unroll=max(int(unroll), 1),
                transposed=True,
            )
            for threads, lanes, vector, unroll in zip(
                *(table[name] for name in ("threads", "lanes", "vector", "unroll")), strict=True
            )
        ]
        whole = np.array([one.whole_patches for one in found], bool)
        count = np.array([one.blocks_per_cta for one in found], np.int64)
        shared = np.array([one.shared_bytes for one in found], np.int64)
        return [
            Rule(
                "patches",
                ~(whole & kept),
                lambda i: (
                    f"{found[i].items} vectors of {found[i].vector} for each of {found[i].lanes} "
                    "lanes: a transposed copy takes patches of four rows that stay in registers"
                ),
            ),
            Rule(
                "tile",
                ~powers_of_two(count),
                lambda i: f"{count[i]} blocks a CTA: a transposed copy takes a power of two",
            ),
            Rule(
                "shared memory",
                shared > MAX_SHARED_BYTES,
                lambda i: f"a tile of {shared[i]} bytes: at most {MAX_SHARED_BYTES} are turned",
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> CudaQuantizeConfig:
        assert isinstance(problem, Quantize)
        rows, cols = extents_of(problem)
        blockwise = scaling_of(problem).cols is not None
        # 16 bytes at once; eight elements share a Philox counter.
        wide = 8 if is_stochastic(problem) else 16 // source_bytes(problem)
        vector = max(v for v in (1, 4, 8) if v <= wide and (cols % v == 0 or not blockwise))
        vectors = rows * -(-cols // vector)
        items = DEFAULT_ITEMS if blockwise else 2
        lanes = min(next_power_of_two(max(vectors // items, 1)), 256)
        if problem.transposed:
            lanes = vectors // items
        return CudaQuantizeConfig(threads=max(256, lanes), lanes=lanes, vector=vector, unroll=1)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.cuda_quantize_workload import CudaQuantizeWorkload

        assert isinstance(problem, Quantize)
        return CudaQuantizeWorkload(problem, device=device, seed=seed)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "quantize_blocks.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import quantize_blocks
        from tiles.kernels.offline_cuda import facts_of

        assert isinstance(problem, Quantize)
        assert isinstance(config, CudaQuantizeConfig)
        scaling = scaling_of(problem)
        options = quantize_blocks.options(
            source=problem.source,
            target=problem.target.element.name,
            block=(scaling.rows or 0, scaling.cols or 0),
            shape=problem.shape,
            # Device memory starts aligned.
            aligned=problem.cols % config.vector == 0
            and not (problem.transposed and problem.rows % 16),
            config=config.to_dict(),
            stochastic=is_stochastic(problem),
            transposed=problem.transposed,
        )
        return facts_of(self.template.with_suffix(".cu"), options, config.threads, limits)
