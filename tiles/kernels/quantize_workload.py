"""A quantisation problem opened on a device for the Triton kernel of rows and blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.quantize_torch import quantize_torch
from tiles.problems import Quantize

__all__ = ["Matrices", "QuantizeWorkload"]

#: What codes hold before a checked launch; rarely a right answer, never a run of them.
POISON = 0x55


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrices:
    """One copy of the input and of what the kernel writes."""

    x: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor


class QuantizeWorkload(CopiedWorkload[Matrices]):
    """Random normal values in the source format, kept on ``device``."""

    problem: Quantize

    def _blank(self) -> Matrices:
        """Matrices of the right shapes, dtypes and strides; the input holds anything."""
        rows, cols = self.problem.shape
        target = self.problem.target
        assert target.scaling is not None  # Quantize refuses formats without scaling
        return Matrices(
            x=torch.empty(rows, cols, dtype=CODE_DTYPES[self.problem.source], device=self.device),
            codes=torch.empty(
                rows, cols, dtype=CODE_DTYPES[target.element.name], device=self.device
            ),
            scales=empty_scales(rows, cols, target.scaling, self.device),
        )

    def _copy(self) -> Matrices:
        blank = self._blank()
        blank.x.copy_(self._drawn)
        return blank

    @cached_property
    def _drawn(self) -> torch.Tensor:
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        x = torch.randn(self.problem.shape, generator=generator, device=self.device)
        return x.to(CODE_DTYPES[self.problem.source])

    @cached_property
    def _reference(self) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = quantize_torch(self._drawn, self.problem.target)
        assert scales is not None
        return codes, scales

    @property
    def _block(self) -> tuple[int, int]:
        scaling = self.problem.target.scaling
        assert scaling is not None
        return scaling.rows or 0, scaling.cols or 0

    def _launcher(self, matrices: Matrices, config: TileConfig) -> Callable[[], None]:
        from tiles.kernels.triton import quantize_blocks

        fields = config.to_dict()
        block = self._block

        def run() -> None:
            quantize_blocks.launch(
                matrices.x, matrices.codes, matrices.scales, block=block, config=fields
            )

        return (
            run if torch.device(self.device).type == "cuda" else self._interpreted(matrices, fields)
        )

    def _interpreted(self, matrices: Matrices, fields: dict[str, int | bool]) -> Callable[[], None]:
        """A launch in Triton's interpreter, whose own casts to 8-bit floats wrap on overflow."""
        from tiles.kernels.quantize_interpreter import exact_interpreter
        from tiles.kernels.triton import quantize_blocks

        exact = fields | {"software_cast": matrices.codes.dtype != torch.int8}

        def run() -> None:
            with exact_interpreter():
                quantize_blocks.launch(
                    matrices.x, matrices.codes, matrices.scales, block=self._block, config=exact
                )

        return run

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.codes.view(torch.uint8).fill_(POISON)
        self.operands.scales.fill_(float("nan"))
        self._launcher(self.operands, config)()
        codes, scales = self._reference
        reason = _first_difference("scale", self.operands.scales, scales)
        reason = reason or _first_difference("code", self.operands.codes, codes)
        return Accuracy(
            ok=not reason,
            max_error_over_bound=float("inf") if reason else 0.0,
            relative_rms=_relative_rms(self.operands.codes, codes),
            reason=reason,
        )

    def compile(self, config: TileConfig) -> None:
        blank = self._blank()
        from tiles.kernels.triton import quantize_blocks

        quantize_blocks.precompile(
            blank.x, blank.codes, blank.scales, block=self._block, config=config.to_dict()
        )

    @property
    def set_bytes(self) -> int:
        rows, cols = self.problem.shape
        source = rows * cols * self.problem.source_element.bits // 8
        return source + self.problem.target.storage_bytes(rows, cols)


def _first_difference(name: str, written: torch.Tensor, wanted: torch.Tensor) -> str:
    """The first element that is not bit-identical, or nothing; one NaN scale is like another."""
    if written.dtype == torch.float32:
        differs = (written != wanted) & ~(written.isnan() & wanted.isnan())
    else:
        differs = written.view(torch.uint8) != wanted.view(torch.uint8)
    count = int(differs.sum())
    if not count:
        return ""
    flat = int(differs.reshape(-1).to(torch.uint8).argmax())
    row, col = divmod(flat, written.shape[1])
    got, want = (float(t[row, col]) for t in (written, wanted))
    return f"{name}[{row}, {col}] = {got!r}, wanted {want!r} exactly; {count} differ"


def _relative_rms(written: torch.Tensor, wanted: torch.Tensor) -> float:
    """Root mean square difference of the codes over that of the wanted ones, as values."""
    if torch.equal(written.view(torch.uint8), wanted.view(torch.uint8)):
        return 0.0
    reference = wanted.float().nan_to_num()
    error = (written.float().nan_to_num() - reference).norm()
    return float(error / reference.norm().clamp(min=1e-30))
