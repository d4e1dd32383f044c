"""Descriptor of the one-pass dequantisation of any block format."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import (
    CAST_CAPABILITY,
    ELEMENTS,
    WORD_CODES,
    next_power_of_two,
    tile_rules,
)
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Dequantize, Problem

__all__ = ["TritonDequantize", "TritonDequantizeConfig"]

#: 8-bit floats with an instruction that decodes them.
HARDWARE_ELEMENTS = ("e4m3fn", "e5m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonDequantizeConfig(TileConfig):
    """One configuration of the dequantisation kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program, elements
    num_warps: int
    software_cast: bool  #: decode 8-bit floats by integer operations


def _software(problem: Dequantize, limits: Limits) -> bool:
    """True where 8-bit floats have to be decoded by integer operations."""
    if problem.source.element.name not in HARDWARE_ELEMENTS:
        return False
    return not (limits.vendor == "nvidia" and limits.capability >= CAST_CAPABILITY)


class TritonDequantize(TritonKernel):
    """``tiles/kernels/triton/dequantize_tiles.py``: blocks of powers of two, rows, tensors."""

    name: ClassVar[str] = "triton_dequantize"
    config_type: ClassVar[type[TileConfig]] = TritonDequantizeConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Dequantize):
            return f"{self.name} serves dequantize problems, not {problem}"
        source, scaling = problem.source, problem.source.scaling
        assert scaling is not None  # Dequantize refuses formats without scaling
        if source.element.name not in ELEMENTS:
            return f"{self.name} reads {', '.join(ELEMENTS)}, not {source.element}"
        if scaling.stored.name == "e4m3fn" and not scaling.two_level:
            return f"{self.name} reads e4m3fn scales with a second level only, not {source}"
        extents = [scaling.rows, scaling.cols]
        if any(extent is not None and extent != next_power_of_two(extent) for extent in extents):
            return f"{self.name} serves blocks of powers of two, not {scaling}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Dequantize)
        integer = problem.source.element.name in ("int8", "mxint8", "int4")
        casts = problem.source.element.name in HARDWARE_ELEMENTS and not _software(problem, limits)
        return NumericPath.NATIVE if integer or casts else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Dequantize)
        return ConfigTable.product(
            TritonDequantizeConfig,
            block_rows=[1, 2, 4, 8, 16, 32, 64, 128],
            block_cols=[32, 64, 128, 256, 512, 1024, 2048, 4096],
            num_warps=[1, 2, 4, 8, 16],
            software_cast=[_software(problem, limits)],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Dequantize)
        software, needed = table["software_cast"], _software(problem, limits)
        least = WORD_CODES.get(problem.source.element.bits, 1)
        shape = (problem.rows, problem.cols)
        return [
            *tile_rules(table, limits, shape=shape, transposed=False, least=(1, least)),
            Rule(
                "cast",
                ~software & needed,
                lambda i: (
                    f"{limits.gpu} has no instruction that decodes {problem.source.element}: "
                    "set software_cast"
                ),
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> TritonDequantizeConfig:
        assert isinstance(problem, Dequantize)
        cols = min(512, max(32, next_power_of_two(problem.cols)))
        rows = max(1, min(128, 4096 // cols))
        # 32 elements a thread: two 16-byte loads of codes, four 16-byte stores of bf16.
        warps = max(rows * cols // (32 * limits.warp_threads), 1)
        return TritonDequantizeConfig(
            block_rows=rows,
            block_cols=cols,
            num_warps=warps,
            software_cast=_software(problem, limits),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "dequantize_tiles.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.dequantize_workload import DequantizeWorkload

        assert isinstance(problem, Dequantize)
        return DequantizeWorkload(problem, device=device, seed=seed)
