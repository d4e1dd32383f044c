"""Descriptor of the one-pass quantisation to any block format, with a transposed copy if wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.formats import Scaling, TensorFormat
from tiles.formats.rounding import Rounding
from tiles.formats.scaling import ScaleRule
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
from tiles.problems import Problem, Quantize

__all__ = ["TritonQuantizeTiles", "TritonQuantizeTilesConfig", "launch_block"]

#: Elements that a conversion instruction rounds to, and those that none does.
HARDWARE_ELEMENTS = ("e4m3fn", "e5m2")
SOFTWARE_ELEMENTS = ("e3m2fn", "e2m3fn")
RULES = (
    ScaleRule.ABSMAX,
    ScaleRule.POW2,
    ScaleRule.FLOOR,
    ScaleRule.CEIL,
    ScaleRule.RCEIL,
    ScaleRule.EVEN,
)
#: Largest block, and longest row under one scale, that a CTA holds in registers.
MAX_TILE_ELEMENTS = 2**15
#: Of a tile that is taken without a search.
MAX_DEFAULT_ELEMENTS = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonQuantizeTilesConfig(TileConfig):
    """One configuration of the tile quantisation kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program, elements
    num_warps: int
    software_cast: bool  #: round floats of 8 and 6 bits by integer operations


def _scaling(problem: Quantize) -> Scaling:
    assert problem.target.scaling is not None  # Quantize refuses formats without scaling
    return problem.target.scaling


def launch_block(target: TensorFormat) -> tuple[int, int]:
    """Rows and columns under one scale as the template takes them: 0 for a whole extent."""
    assert target.scaling is not None
    return target.scaling.rows or 0, target.scaling.cols or 0


def _units(problem: Quantize) -> tuple[int, int]:
    """Rows and columns that a tile's extents are multiples of."""
    scaling = _scaling(problem)
    if scaling.rows is None:
        return 1, 1
    rows, cols = scaling.rows, scaling.cols or next_power_of_two(problem.cols)
    return (max(rows, cols), max(rows, cols)) if problem.transposed else (rows, cols)


def _software(problem: Quantize, limits: Limits) -> bool:
    """True where floats of 8 and 6 bits have to be rounded by integer operations."""
    name = problem.target.element.name
    if name not in HARDWARE_ELEMENTS + SOFTWARE_ELEMENTS:
        return False
    if problem.target.rounding is Rounding.STOCHASTIC:
        return False  # not by an instruction in any case
    native = limits.vendor == "nvidia" and limits.capability >= CAST_CAPABILITY
    return name in SOFTWARE_ELEMENTS or not native


class TritonQuantizeTiles(TritonKernel):
    """``tiles/kernels/triton/quantize_tiles.py``: blocks of powers of two, rows and tensors."""

    name: ClassVar[str] = "triton_quantize_tiles"
    config_type: ClassVar[type[TileConfig]] = TritonQuantizeTilesConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Quantize):
            return f"{self.name} serves quantize problems, not {problem}"
        target, scaling = problem.target, _scaling(problem)
        if target.element.name not in ELEMENTS:
            return f"{self.name} writes {', '.join(ELEMENTS)}, not {target.element}"
        if target.rounding not in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC):
            return f"{self.name} rounds to nearest even or stochastically, not {target}"
        if not target.saturate:
            return f"{self.name} saturates, and {target} does not"
        if scaling.rule not in RULES:
            return f"{self.name} searches no scales: {target} takes more than one pass"
        if scaling.stored.name == "e4m3fn" and not scaling.two_level:
            return f"{self.name} writes e4m3fn scales with a second level only, not {target}"
        if scaling.rows is None and scaling.cols is not None:
            return f"{self.name} holds no whole columns: take blocks instead of {scaling}"
        if scaling.cols is None and scaling.rows is not None and problem.transposed:
            return f"{self.name} holds no whole columns, which the copy of {scaling} needs"
        extents = [scaling.rows, scaling.cols]
        if any(extent is not None and extent != next_power_of_two(extent) for extent in extents):
            return f"{self.name} serves blocks of powers of two, not {scaling}"
        rows, cols = _units(problem)
        if rows * cols > MAX_TILE_ELEMENTS:
            return f"{self.name} holds {MAX_TILE_ELEMENTS} elements of a tile, not {rows}x{cols}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Quantize)
        native = limits.vendor == "nvidia" and limits.capability >= CAST_CAPABILITY
        integer = problem.target.element.name in ("int8", "mxint8", "int4")
        casts = problem.target.element.name in HARDWARE_ELEMENTS and native
        return NumericPath.NATIVE if integer or casts else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Quantize)
        rows, cols = _units(problem)
        return ConfigTable.product(
            TritonQuantizeTilesConfig,
            block_rows=sorted({rows * n for n in (1, 2, 4, 8, 16, 32, 64, 128) if rows * n <= 512}),
            block_cols=sorted({max(cols, n) for n in (32, 64, 128, 256, 512, 1024, 2048, 4096)}),
            num_warps=[1, 2, 4, 8, 16],
            software_cast=[_software(problem, limits)],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Quantize)
        rows, cols, software = table["block_rows"], table["block_cols"], table["software_cast"]
        unit_rows, unit_cols = _units(problem)
        least = WORD_CODES.get(problem.target.element.bits, 1)
        needed = _software(problem, limits)
        shape = (problem.rows, problem.cols)
        return [
            *tile_rules(
                table,
                limits,
                shape=shape,
                transposed=problem.transposed,
                least=(least if problem.transposed else 1, least),
            ),
            Rule(
                "whole blocks",
                (rows % unit_rows != 0) | (cols % unit_cols != 0),
                lambda i: (
                    f"tile {rows[i]}x{cols[i]} does not consist of whole {unit_rows}x{unit_cols} "
                    "blocks"
                ),
            ),
            Rule(
                "cast",
                ~software & needed,
                lambda i: (
                    f"{limits.gpu} has no instruction that rounds to {problem.target.element}: "
                    "set software_cast"
                ),
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> TritonQuantizeTilesConfig:
        assert isinstance(problem, Quantize)
        rows, cols = _units(problem)
        if problem.transposed:
            # 64 x 64: both orders of codes leave in whole sectors.
            rows, cols = max(rows, 64), max(cols, 64)
        else:
            # 128 x 128 blocks one by one: several would not fit a CTA's registers.
            most = max(MAX_DEFAULT_ELEMENTS // rows, cols)
            cols = max(cols, min(512, most, max(32, next_power_of_two(problem.cols))))
            rows = max(rows, min(128, 4096 // cols), 1)
        # 32 elements a thread: two or four 16-byte loads in flight, at about 64 registers.
        threads = rows * cols // 32
        warps = min(max(threads // limits.warp_threads, 1), 1024 // limits.warp_threads)
        return TritonQuantizeTilesConfig(
            block_rows=rows,
            block_cols=cols,
            num_warps=warps,
            software_cast=_software(problem, limits),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "quantize_tiles.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.quantize_tiles_workload import QuantizeTilesWorkload

        assert isinstance(problem, Quantize)
        return QuantizeTilesWorkload(problem, device=device, seed=seed)
