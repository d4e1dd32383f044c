"""Scales of a whole tensor that do not come from the tensor itself: from calls before, or fixed.

A product of 8-bit floats needs one scale an operand.  Found in the data it costs a pass before the
one that quantises; delayed scaling takes it from the calls before, unit scaling once and for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tiles.formats import ElementFormat

__all__ = ["Delayed", "Fixed", "LayerScales"]

#: Calls whose largest magnitudes count, as in the first releases of Transformer Engine.
HISTORY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Delayed:
    """Scales from the largest magnitude of the calls before; what exceeds it now saturates.

    Source: FP8 Formats for Deep Learning, arXiv 2209.05433, and NVIDIA's Transformer Engine,
    ``DelayedScaling`` with the algorithm ``max``; FP8-LM, arXiv 2310.18313, trains so.
    """

    history: int = HISTORY  #: calls that are looked back upon

    def __post_init__(self) -> None:
        if self.history < 1:
            raise ValueError(
                f"history {self.history}: delayed scaling looks back on 1 call or more"
            )

    def fresh(self, device: torch.device) -> torch.Tensor:
        """(history) fp32, largest magnitudes, the newest first; 0 where there was no call yet."""
        return torch.zeros(self.history, device=device, dtype=torch.float32)

    def scale(
        self, kept: torch.Tensor, x: torch.Tensor, largest: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale () fp32, and what is kept after this call.  The first call looks at itself."""
        amax = x.abs().amax().float()
        finite = amax.isfinite()
        top = kept.amax()
        top = torch.where(top > 0, top, amax)
        scale = torch.where(top > 0, top / torch.full_like(top, largest), 1.0)
        newest = torch.where(finite, amax, 0.0).reshape(1)
        # As of a block: a NaN or an infinity makes the scale NaN, so that a step guard sees it.
        return torch.where(finite, scale, torch.nan), torch.cat([newest, kept[:-1]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Powers of two that bring a tensor's root mean square near 1 in its first call, for good.

    Source: Unit Scaling, arXiv 2303.11257, whose factors follow from the graph before training;
    here they follow from the first call, since an ordinary model's weights have no unit variance.
    """

    def fresh(self, device: torch.device) -> torch.Tensor:
        """(1) fp32, the scale; 0 until there was a call with numbers other than zero."""
        return torch.zeros(1, device=device, dtype=torch.float32)

    def scale(
        self, kept: torch.Tensor, x: torch.Tensor, largest: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scale () fp32, and what is kept after this call."""
        square = x.float().square().mean()
        found = (square > 0) & square.isfinite()
        # 2^round(log2 of the root), exactly.
        power = torch.where(found, square, 1.0).log2().mul(0.5).round().to(torch.int32)
        measured = torch.ldexp(torch.ones_like(square), power)
        fixed = kept[0] > 0
        scale = torch.where(fixed, kept[0], measured)
        kept = torch.where(fixed | found, scale, 0.0).reshape(1)
        return torch.where(square.isnan() | square.isinf(), torch.nan, scale), kept


class LayerScales:
    """What a layer's input, weight and gradient are scaled by, each by its own past."""

    def __init__(self, rule: Delayed | Fixed) -> None:
        """Nothing was seen yet."""
        self.rule = rule
        self._kept: dict[str, torch.Tensor] = {}

    def scale(
        self, role: str, x: torch.Tensor, element: ElementFormat, *, train: bool
    ) -> torch.Tensor:
        """(1, 1) fp32, what a matrix is divided by.

        Args:
            role: ``input``, ``weight`` or ``gradient``.
            x: the matrix.
            train: remember this call; evaluation leaves no trace.
        """
        kept = self._kept.get(role)
        kept = self.rule.fresh(x.device) if kept is None else kept.to(x.device)
        scale, after = self.rule.scale(kept, x.detach(), float(element.max))
        if train:
            self._kept[role] = after
        return scale.reshape(1, 1)

    def state(self) -> dict[str, torch.Tensor]:
        """What training goes on from, by role."""
        return {role: kept.clone() for role, kept in self._kept.items()}

    def refusal(self, state: Mapping[str, torch.Tensor]) -> str | None:
        """Why a state is none of these scales, if it is not."""
        for role, kept in state.items():
            expected = tuple(self.rule.fresh(kept.device).shape)
            if tuple(kept.shape) != expected:
                return f"{role} holds {tuple(kept.shape)} numbers, {expected} are kept here"
        return None

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state that :meth:`refusal` has nothing against."""
        self._kept = {role: kept.clone() for role, kept in state.items()}
