"""Descriptor of the transposition of 8-bit codes in CUDA C++, for CuPy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda.quantize_geometry import MAX_SHARED_BYTES
from tiles.kernels.cuda.transpose_codes import CHUNK, PATCH, shared_bytes
from tiles.kernels.quantize_family import MAX_PROGRAMS, MAX_THREADS, powers_of_two
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Problem, Transpose

__all__ = ["CudaTranspose", "CudaTransposeConfig"]

#: Narrowest tile, so that 32 bytes of a row lie beside one another.
MIN_EXTENT = 32
#: Most codes of a thread: four patches, 64 registers.
MAX_THREAD_CODES = 4 * PATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaTransposeConfig(TileConfig):
    """One configuration of the CUDA C++ transposition."""

    block_rows: int  #: tile rows of one CTA, elements
    block_cols: int  #: tile columns of one CTA, elements
    num_warps: int


class CudaTranspose(Kernel):
    """``tiles/kernels/cuda/transpose_codes.cu``: any extents, NVIDIA GPUs only."""

    name: ClassVar[str] = "cuda_transpose"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = CudaTransposeConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Transpose):
            return f"{self.name} serves transpose problems, not {problem}"
        if limits.vendor != "nvidia":
            return f"{self.name} is CUDA C++ and {limits.gpu} is not an NVIDIA GPU"
        if limits.capability < 80:
            return f"{self.name} needs capability 80, {limits.gpu} has {limits.capability}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            CudaTransposeConfig,
            block_rows=[32, 64, 128, 256],
            block_cols=[32, 64, 128, 256],
            num_warps=[1, 2, 4, 8, 16],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Transpose)
        rows, cols, warps = table["block_rows"], table["block_cols"], table["num_warps"]
        threads = 32 * warps
        each = rows * cols / np.maximum(threads, 1)
        held = powers_of_two(rows) & powers_of_two(cols)
        shared = np.array([shared_bytes(*tile) for tile in zip(rows, cols, strict=True)], np.int64)
        programs = -(-problem.rows // np.maximum(rows, 1)) * -(-problem.cols // np.maximum(cols, 1))
        return [
            Rule(
                "powers of two",
                ~held | (rows < MIN_EXTENT) | (cols < MIN_EXTENT) | ~powers_of_two(warps),
                lambda i: (
                    f"block_rows {rows[i]}, block_cols {cols[i]}, num_warps {warps[i]}: each must "
                    f"be a power of two, extents at least {MIN_EXTENT}"
                ),
            ),
            Rule(
                "threads",
                threads > MAX_THREADS,
                lambda i: f"{warps[i]} warps are {threads[i]} threads > {MAX_THREADS}",
            ),
            Rule(
                "codes a thread",
                (each < PATCH) | (each > MAX_THREAD_CODES),
                lambda i: (
                    f"{each[i]:g} codes a thread: from {PATCH}, four rows of {CHUNK}, to "
                    f"{MAX_THREAD_CODES}"
                ),
            ),
            Rule(
                "shared memory",
                shared > MAX_SHARED_BYTES,
                lambda i: f"a tile of {shared[i]} bytes: at most {MAX_SHARED_BYTES} are turned",
            ),
            Rule(
                "programs",
                programs > MAX_PROGRAMS,
                lambda i: f"{programs[i]} tiles > {MAX_PROGRAMS}",
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> CudaTransposeConfig:
        # Rows of 128 bytes on both sides, 64 bytes of a thread in flight.
        return CudaTransposeConfig(block_rows=128, block_cols=128, num_warps=8)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "transpose_codes.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.transpose_workload import CudaTransposeWorkload

        assert isinstance(problem, Transpose)
        return CudaTransposeWorkload(problem, device=device, seed=seed)

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import transpose_codes
        from tiles.kernels.offline_cuda import facts_of

        assert isinstance(problem, Transpose)
        assert isinstance(config, CudaTransposeConfig)
        options = transpose_codes.options(
            problem.shape,
            # Device memory starts aligned.
            aligned=problem.rows % CHUNK == 0 and problem.cols % CHUNK == 0,
            config=config.to_dict(),
        )
        return facts_of(self.template.with_suffix(".cu"), options, 32 * config.num_warps, limits)
