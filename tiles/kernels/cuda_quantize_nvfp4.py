"""Descriptor of the NVFP4 quantisation in CUDA C++, for CuPy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tiles.formats import TensorFormat
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda.block_arrays import MAX_BLOCKS
from tiles.kernels.cuda.quantize_nvfp4 import BLOCK, MAX_KEPT_MIB, smem_bytes
from tiles.kernels.quantize_family import MAX_REGISTERS
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Problem, Quantize

__all__ = ["CudaQuantizeNvfp4", "CudaQuantizeNvfp4Config"]

TARGET = TensorFormat.parse("nvfp4")
MAX_WARPS, MAX_STAGES = 32, 64
#: Of a thread beside the steps that it holds, and of each of them.
BASE_REGISTERS, STEP_REGISTERS = 72, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaQuantizeNvfp4Config(TileConfig):
    """One configuration of the CUDA C++ quantisation to NVFP4."""

    num_warps: int  #: of a CTA, of which every SM has one
    stages: int  #: steps of 2 KiB in a warp's ring
    held: int  #: steps that a warp keeps in registers between both walks, where they are fused
    fused: bool  #: one cooperative launch, whose rings keep the matrix's end between both walks
    kept_mib: int  #: of the matrix, what the L2 is asked to keep between them; 0 asks for nothing


class CudaQuantizeNvfp4(Kernel):
    """``tiles/kernels/cuda/quantize_nvfp4.cu``: bf16 to NVFP4, NVIDIA GPUs only."""

    name: ClassVar[str] = "cuda_quantize_nvfp4"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = CudaQuantizeNvfp4Config

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Quantize):
            return f"{self.name} serves quantize problems, not {problem}"
        other = "use triton_quantize_tiles"
        if problem.target != TARGET:
            return f"{self.name} writes {TARGET}, not {problem.target}: {other}"
        if problem.source != "bf16":
            return f"{self.name} reads bf16, not {problem.source}: {other}"
        if problem.transposed or problem.swizzled:
            return f"{self.name} writes no transposed copy and no swizzled scales: {other}"
        if problem.cols % BLOCK:
            return f"{self.name} takes rows of whole blocks of {BLOCK}, not {problem.cols}: {other}"
        if problem.rows * problem.cols // BLOCK > MAX_BLOCKS:
            return f"{self.name} serves at most {MAX_BLOCKS} blocks: {other}"
        if limits.vendor != "nvidia":
            return f"{self.name} is CUDA C++ and {limits.gpu} is not an NVIDIA GPU"
        if limits.capability < 80:
            return f"{self.name} needs capability 80, {limits.gpu} has {limits.capability}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            CudaQuantizeNvfp4Config,
            num_warps=[4, 8, 12, 16, 32],
            stages=[2, 3, 4, 7, 9, 14],
            held=[0, 2, 3, 6, 10],
            fused=[True, False],
            kept_mib=[0, 32, 40],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        warps, stages, kept = table["num_warps"], table["stages"], table["kept_mib"]
        held = table["held"]
        registers = np.where(held > 0, BASE_REGISTERS + STEP_REGISTERS * held, 0)
        available = np.minimum(MAX_REGISTERS, limits.registers_per_sm // np.maximum(32 * warps, 1))
        shared = np.array([smem_bytes(*pair) for pair in zip(warps, stages, strict=True)], np.int64)
        return [
            Rule(
                "warps",
                (warps < 1) | (warps > MAX_WARPS),
                lambda i: f"{warps[i]} warps: from 1 to {MAX_WARPS}",
            ),
            Rule(
                "stages",
                (stages < 2) | (stages > MAX_STAGES),
                lambda i: f"{stages[i]} stages: from 2 to {MAX_STAGES}",
            ),
            Rule(
                "held",
                (held < 0) | (held > stages * table["fused"]),
                lambda i: (
                    f"held {held[i]}: at most the {stages[i]} stages where both walks are fused, "
                    "else 0"
                ),
            ),
            Rule(
                "registers",
                registers > available,
                lambda i: (
                    f"about {registers[i]} registers a thread > {available[i]} at "
                    f"{32 * warps[i]} threads on {limits.gpu}"
                ),
            ),
            Rule(
                "kept",
                (kept < 0) | (kept > MAX_KEPT_MIB),
                lambda i: f"kept_mib {kept[i]}: from 0 to {MAX_KEPT_MIB}",
            ),
            Rule(
                "shared memory",
                shared > limits.smem_bytes_per_cta,
                lambda i: f"smem {shared[i]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> CudaQuantizeNvfp4Config:
        # Two launches need no CTA beside another; half of the shared memory is in flight.
        stages = max(2, (limits.smem_bytes_per_cta // 2 - smem_bytes(16, 0)) // smem_bytes(16, 1))
        return CudaQuantizeNvfp4Config(num_warps=16, stages=stages, held=0, fused=False, kept_mib=0)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "quantize_nvfp4.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.cuda_quantize_nvfp4_workload import CudaQuantizeNvfp4Workload

        assert isinstance(problem, Quantize)
        return CudaQuantizeNvfp4Workload(problem, device=device, seed=seed)

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import quantize_nvfp4
        from tiles.kernels.offline_cuda import facts_of

        assert isinstance(problem, Quantize)
        assert isinstance(config, CudaQuantizeNvfp4Config)
        source, threads = self.template.with_suffix(".cu"), 32 * config.num_warps
        found = None
        for options in quantize_nvfp4.options(problem.shape, config.to_dict()):
            found = facts_of(source, options, threads, limits)  # the last one has most to do
        return found
