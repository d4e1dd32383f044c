"""How a matrix is stored: codes and block scales, and blocks that fall back to 16 bits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.triton.outlier_operands import FallbackBlocks

__all__ = ["BothDirections", "Codes", "held", "hold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """A (rows, cols) matrix as it is stored."""

    main: QuantizedTensor
    #: What the codes leave of outlier blocks, in codes of their own: 16 bits an element there.
    fallback: FallbackBlocks | None = None
    #: Codes of the transpose, where one pass wrote both: the same ones the other way round.  For
    #: the products of one backward pass; never saved.
    turned: QuantizedTensor | None = None

    @property
    def format(self) -> TensorFormat:
        """Element, scaling and rounding."""
        return self.main.format

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        rows, cols = self.main.codes.shape
        return rows, cols

    @property
    def device(self) -> torch.device:
        """Where codes and scales lie."""
        return self.main.codes.device

    def splits_at(self, row: int) -> bool:
        """True where a block begins at every multiple of a row, so that parts are codes too."""
        scaling = self.format.scaling
        if self.fallback is not None or scaling is None or not scaling.rows:
            return self.fallback is None and scaling is None
        return row % scaling.rows == 0

    def rows(self, part: slice) -> "Codes":
        """Codes of some rows, from one that begins a block to another."""
        main, whole = self.main, self.main.codes.shape[0]
        begin, end, _ = part.indices(whole)
        if (begin, end) == (0, whole):
            return self
        scaling, scales = self.format.scaling, self.main.scales
        assert self.splits_at(begin)
        if scaling is not None and scales is not None:
            assert scaling.rows is not None
            scales = scales[begin // scaling.rows : -(-end // scaling.rows)]
        return Codes(main=replace(main, codes=main.codes[begin:end], scales=scales))

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that is stored, the transposed copy aside."""
        main = self.main
        found = [main.codes, main.scales, main.zero_points, main.tensor_scale]
        if self.fallback is not None:
            found += self.fallback.tensors.values()
        return [t for t in found if t is not None]

    @property
    def stored_bytes(self) -> int:
        """Bytes of all that is stored, the transposed copy aside."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """What the codes stand for, (rows, cols).

        Args:
            dtype: float64 is exact; others are rounded from float32, as the kernels do.
        """
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        values = self.main.dequantize(wide)
        if self.fallback is not None:
            values = values + _rest(self.fallback, self.main).to(wide)
        return values.to(dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class BothDirections:
    """Codes of a matrix as a product takes it forward, and of its transpose for backward."""

    forward: Codes  #: (R, C)
    turned: Codes | None  #: (C, R), where its codes are not those of ``forward`` the other way


def _rest(fallback: FallbackBlocks, main: QuantizedTensor) -> torch.Tensor:
    """What outlier blocks add to the values of the codes, (rows, cols) float64."""
    scaling = main.format.scaling
    assert scaling is not None  # outliers stand beside blocks alone
    assert scaling.rows is not None
    assert scaling.cols is not None
    rows, cols = main.codes.shape
    down, across = scaling.grid(rows, cols)
    blocks = fallback.codes.new_zeros(
        (down * across, scaling.rows, scaling.cols), dtype=torch.float64
    )
    counts = fallback.offsets.diff().long()
    row = torch.arange(down, device=counts.device).repeat_interleave(counts)
    used = len(row)
    place = row * across + fallback.columns[:used].long()
    blocks[place] = fallback.codes[:used].double() * fallback.scales[:used, None, None].double()
    grid = blocks.view(down, across, scaling.rows, scaling.cols).transpose(1, 2)
    return grid.reshape(down * scaling.rows, across * scaling.cols)[:rows, :cols]


_Rebuild = Callable[[list[torch.Tensor]], Any]


def _taken_apart(item: Codes) -> tuple[list[torch.Tensor], _Rebuild]:
    main = item.main
    names = [
        name
        for name in ("codes", "scales", "zero_points", "tensor_scale")
        if getattr(main, name) is not None
    ]
    # Without its tensors: what stays behind must not keep their memory alive.
    bare = replace(main, codes=torch.empty(0), scales=None, zero_points=None, tensor_scale=None)
    fallback = list(item.fallback.tensors) if item.fallback is not None else []

    def rebuild(tensors: list[torch.Tensor]) -> Codes:
        given: dict[str, Any] = dict(zip(names, tensors, strict=False))
        rest = dict(zip(fallback, tensors[len(names) :], strict=True))
        return Codes(main=replace(bare, **given), fallback=FallbackBlocks(**rest) if rest else None)

    return item.tensors, rebuild


def hold(ctx: Any, *items: Codes | torch.Tensor | None) -> None:
    """Save operands for backward as they are stored, so that torch's hooks see their real bytes."""
    tensors: list[torch.Tensor] = []
    plan: list[tuple[int, _Rebuild | None]] = []
    for item in items:
        if isinstance(item, Codes):
            parts, rebuild = _taken_apart(item)
            tensors += parts
            plan.append((len(parts), rebuild))
        else:
            tensors += [] if item is None else [item]
            plan.append((0 if item is None else 1, None))
    ctx.save_for_backward(*tensors)
    ctx.held_plan = plan


def held(ctx: Any) -> list[Any]:
    """What :func:`hold` saved, in the same order."""
    tensors = list(ctx.saved_tensors)
    found: list[Any] = []
    for count, rebuild in ctx.held_plan:
        parts, tensors = tensors[:count], tensors[count:]
        if rebuild is not None:
            found.append(rebuild(parts))
        else:
            found.append(parts[0] if parts else None)
    return found
