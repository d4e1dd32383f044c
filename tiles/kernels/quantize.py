"""Descriptors of the block quantisation kernels, in Triton and in CUDA C++ for CuPy."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, Scaling
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Problem, Quantize

__all__ = [
    "CudaQuantize",
    "CudaQuantizeConfig",
    "TritonQuantize",
    "TritonQuantizeConfig",
    "kept_words",
]

TARGETS = ("int8", "e4m3fn", "e5m2")
#: First NVIDIA capability with conversion instructions for 8-bit floats.
CAST_CAPABILITY = 89
#: Triton refuses larger tiles.
MAX_TILE_ELEMENTS = 2**20
#: Most programs (CTAs) along the first axis of a launch.
MAX_PROGRAMS = 2**31 - 1
MAX_THREADS = 1024
MAX_REGISTERS = 255
#: Registers that a thread of the CUDA kernel needs beside the words of its block.
CUDA_BASE_REGISTERS = 40
#: A thread of the CUDA kernel keeps at most this many 4-byte words of its blocks in registers.
MAX_KEPT_WORDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonQuantizeConfig(TileConfig):
    """One configuration of the Triton quantisation kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program (or of one step through a block), elements
    num_warps: int
    num_stages: int  #: loads in flight where a program steps through a block larger than its tile
    software_cast: (
        bool  #: round 8-bit floats by integer operations, for GPUs without the instruction
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaQuantizeConfig(TileConfig):
    """One configuration of the CUDA C++ quantisation kernel."""

    threads: int  #: threads of a CTA
    lanes: int  #: threads that share one quantisation block, a power of two
    vector: int  #: adjacent elements that a thread handles at once: 8 bf16 elements are 16 bytes
    unroll: int  #: quantisation blocks that every group of lanes handles, their loads in flight


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _is_power_of_two(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    powers: NDArray[np.bool_] = (values > 0) & (values & (values - 1) == 0)
    return powers


def _extents(problem: Quantize) -> tuple[int, int]:
    """Rows and columns under one scale, a whole extent spelt out."""
    scaling = _scaling(problem)
    return scaling.rows or problem.rows, scaling.cols or problem.cols


def _scaling(problem: Quantize) -> Scaling:
    assert problem.target.scaling is not None  # Quantize refuses formats without scaling
    return problem.target.scaling


def _is_tensor(problem: Quantize) -> bool:
    scaling = _scaling(problem)
    return scaling.rows is None and scaling.cols is None


def _is_row(problem: Quantize) -> bool:
    scaling = _scaling(problem)
    return scaling.rows == 1 and scaling.cols is None


def _source_bytes(problem: Quantize) -> int:
    return problem.source_element.bits // 8


def _casts_in_hardware(problem: Quantize, limits: Limits) -> bool:
    if isinstance(problem.target.element, IntElement):
        return True
    return limits.vendor == "nvidia" and limits.capability >= CAST_CAPABILITY


class _QuantizeKernel(Kernel):
    """What both families share."""

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Quantize):
            return f"{self.name} serves quantize problems, not {problem}"
        if problem.target.element.name not in TARGETS:
            return f"{self.name} writes {', '.join(TARGETS)}, not {problem.target.element}"
        if not problem.target.plain:
            return f"{self.name} writes fp32 absmax scales and rounds to even, not {problem.target}"
        if problem.transposed or problem.swizzled:
            return f"{self.name} writes neither transposed copies nor swizzled scales"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Quantize)
        native = _casts_in_hardware(problem, limits)
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    @property
    @abstractmethod
    def template(self) -> Path: ...

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.quantize_workload import QuantizeWorkload

        assert isinstance(problem, Quantize)
        return QuantizeWorkload(problem, backend=self.backend, device=device, seed=seed)


class TritonQuantize(_QuantizeKernel):
    """``tiles/kernels/triton/quantize_blocks.py``: tensor, row and block scalings, any extents."""

    name: ClassVar[str] = "triton_quantize"
    backend: ClassVar[Backend] = Backend.TRITON
    config_type: ClassVar[type[TileConfig]] = TritonQuantizeConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Quantize)
        rows, cols = (_next_power_of_two(extent) for extent in _extents(problem))
        cast = not _casts_in_hardware(problem, limits)
        flat = _is_tensor(problem)
        return ConfigTable.product(
            TritonQuantizeConfig,
            block_rows=[1] if flat else sorted({1, 2, 4, 8, 16, 32, 64, 128} | {min(rows, 128)}),
            block_cols=sorted({32, 128, 256, 512, 1024, 2048, 4096, 8192} | {min(cols, 16384)}),
            num_warps=[1, 2, 4, 8, 16],
            num_stages=[1] if flat else [1, 3],
            software_cast=[cast],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Quantize)
        tile_rows, tile_cols = table["block_rows"], table["block_cols"]
        warps, stages, software = table["num_warps"], table["num_stages"], table["software_cast"]
        block_rows, block_cols = _extents(problem)
        elements = tile_rows * tile_cols
        threads = warps * limits.warp_threads

        powers = _is_power_of_two(tile_rows) & _is_power_of_two(tile_cols) & _is_power_of_two(warps)
        whole, fits, loops = self._coverage(problem, table)
        # Compiled for sm_90: 16, 32 and 64 elements a thread take 40, 64 and 127 registers.
        registers = np.maximum(32, 2 * -(-elements // np.maximum(threads, 1)))
        smem = np.where(loops, stages * elements * _source_bytes(problem), 0)
        if _is_tensor(problem):
            programs = -(-problem.rows * problem.cols // np.maximum(elements, 1))
        else:
            covered_rows = np.where(whole, tile_rows, tile_rows if _is_row(problem) else block_rows)
            covered_cols = np.where(whole, tile_cols, block_cols)
            programs = -(-problem.rows // covered_rows) * -(-problem.cols // covered_cols)
        hardware = _casts_in_hardware(problem, limits)
        return [
            Rule(
                "powers of two",
                ~powers,
                lambda i: (
                    f"block_rows {tile_rows[i]}, block_cols {tile_cols[i]}, num_warps {warps[i]}: "
                    "each must be a power of two"
                ),
            ),
            Rule(
                "threads",
                threads > MAX_THREADS,
                lambda i: f"{warps[i]} warps are {threads[i]} threads > {MAX_THREADS}",
            ),
            Rule(
                "tile size",
                elements > MAX_TILE_ELEMENTS,
                lambda i: f"tile of {elements[i]} elements > {MAX_TILE_ELEMENTS}",
            ),
            Rule(
                "whole blocks",
                ~(whole | fits),
                lambda i: (
                    f"tile {tile_rows[i]}x{tile_cols[i]} neither consists of whole "
                    f"{block_rows}x{block_cols} blocks nor lies within one"
                ),
            ),
            Rule(
                "registers",
                (registers > MAX_REGISTERS) | (registers * threads > limits.registers_per_sm),
                lambda i: (
                    f"about {registers[i]} registers x {threads[i]} threads > {MAX_REGISTERS} "
                    f"a thread or {limits.registers_per_sm} on {limits.gpu}"
                ),
            ),
            Rule(
                "shared memory",
                smem > limits.smem_bytes_per_cta,
                lambda i: f"smem {smem[i]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
            ),
            Rule(
                "stages",
                (stages < 1) | ((stages > 1) & ~loops),
                lambda i: f"num_stages {stages[i]}: without a loop through the block it must be 1",
            ),
            Rule(
                "cast",
                ~software & (not hardware),
                lambda i: (
                    f"{limits.gpu} has no instruction that rounds to {problem.target.element}: "
                    "set software_cast"
                ),
            ),
            Rule(
                "programs",
                programs > MAX_PROGRAMS,
                lambda i: f"{programs[i]} programs > {MAX_PROGRAMS}",
            ),
        ]

    @staticmethod
    def _coverage(
        problem: Quantize, table: ConfigTable
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Tiles that consist of whole blocks, that lie within one, that must step through one."""
        tile_rows, tile_cols = table["block_rows"], table["block_cols"]
        block_rows, block_cols = _extents(problem)
        everywhere = np.ones(len(table), bool)
        if _is_tensor(problem):
            return everywhere, ~everywhere, ~everywhere
        if _is_row(problem):
            return ~everywhere, everywhere, tile_cols < block_cols
        padded_rows, padded_cols = _next_power_of_two(block_rows), _next_power_of_two(block_cols)
        whole = (
            (padded_rows == block_rows)
            & (padded_cols == block_cols)
            & (tile_rows % block_rows == 0)
            & (tile_cols % block_cols == 0)
        )
        fits = (tile_rows <= padded_rows) & (tile_cols <= padded_cols)
        covers = (tile_rows == padded_rows) & (tile_cols == padded_cols)
        return whole, fits, ~whole & ~covers

    def default(self, problem: Problem, limits: Limits) -> TritonQuantizeConfig:
        assert isinstance(problem, Quantize)
        rows, cols = (_next_power_of_two(extent) for extent in _extents(problem))
        extents = _extents(problem)
        if _is_tensor(problem):
            tile_rows, tile_cols = 1, 8192
        elif _is_row(problem):
            tile_cols = min(max(cols, 32), 8192)
            tile_rows = min(16, max(1, 4096 // tile_cols))
        elif (rows, cols) == extents and rows * cols <= 16384:
            tile_rows = rows
            tile_cols = max(cols, min(8192, 4096 // rows, _next_power_of_two(problem.cols)))
        else:
            tile_cols = min(cols, 1024)
            tile_rows = min(rows, max(1, 8192 // tile_cols))
        # 32 elements a thread: two or four 16-byte loads in flight, at about 64 registers.
        warps = min(max(tile_rows * tile_cols // (32 * limits.warp_threads), 1), 8)
        return TritonQuantizeConfig(
            block_rows=tile_rows,
            block_cols=tile_cols,
            num_warps=warps,
            num_stages=1,
            software_cast=not _casts_in_hardware(problem, limits),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "quantize_blocks.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.offline_triton import META, facts_of

        workload = self.workload(problem, device=META, seed=0)
        return facts_of(lambda: workload.compile(config), limits)


def kept_words(problem: Quantize, table: ConfigTable) -> NDArray[np.int64]:
    """4-byte words of one quantisation block that each of its threads handles; at most 64 are kept
    in registers, longer blocks are read twice."""
    rows, cols = _extents(problem)
    vector = np.maximum(table["vector"], 1)
    vectors = rows * -(-cols // vector)
    words = np.maximum(vector * _source_bytes(problem) // 4, 1)
    kept: NDArray[np.int64] = -(-vectors // np.maximum(table["lanes"], 1)) * words
    return kept


class CudaQuantize(_QuantizeKernel):
    """``tiles/kernels/cuda/quantize_blocks.cu``: row and block scalings, NVIDIA GPUs only."""

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
        scaling = _scaling(problem)
        if scaling.rows is None:
            return f"{self.name} serves row and block scalings, not {scaling}: use triton_quantize"
        blocks = problem.target.scale_count(problem.rows, problem.cols)
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
        rows, cols = _extents(problem)
        blockwise = _scaling(problem).cols is not None
        vectors = rows * -(-cols // np.maximum(vector, 1))
        words = kept_words(problem, table)
        kept = words <= MAX_KEPT_WORDS
        one = np.maximum(vector * _source_bytes(problem) // 4, 1)
        registers = CUDA_BASE_REGISTERS + np.where(kept, words * unroll, one)
        available = np.minimum(MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
        useful = 1 << np.ceil(np.log2(np.maximum(vectors, 1))).astype(np.int64)
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
                ~_is_power_of_two(lanes)
                | (lanes > threads)
                | (threads % np.maximum(lanes, 1) != 0),
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
        ]

    def default(self, problem: Problem, limits: Limits) -> CudaQuantizeConfig:
        assert isinstance(problem, Quantize)
        rows, cols = _extents(problem)
        blockwise = _scaling(problem).cols is not None
        wide = 16 // _source_bytes(problem)
        vector = max(v for v in (1, 4, 8) if v <= wide and (cols % v == 0 or not blockwise))
        vectors = rows * -(-cols // vector)
        # Two vectors a thread, so that a thread has 32 bytes in flight.
        lanes = min(_next_power_of_two(max(vectors // 2, 1)), 256)
        return CudaQuantizeConfig(threads=256, lanes=lanes, vector=vector, unroll=1)

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
        scaling = _scaling(problem)
        options = quantize_blocks.options(
            source=problem.source,
            target=problem.target.element.name,
            block=(scaling.rows or 0, scaling.cols or 0),
            cols=problem.cols,
            aligned=problem.cols % config.vector == 0,  # device memory starts aligned
            config=config.to_dict(),
        )
        return facts_of(self.template.with_suffix(".cu"), options, config.threads, limits)
