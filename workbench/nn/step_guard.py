"""Refuses optimiser steps whose gradients are not finite, and says so."""

import warnings
from dataclasses import dataclass

import torch
from torch import nn

from workbench.nn.compiled import outside_graphs

__all__ = ["StepGuard", "StepRefused", "StepTaken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """The optimiser has stepped."""

    step: int  #: how many steps it has taken, this one included


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRefused:
    """The optimiser has not stepped: parameters and its state are what they were."""

    step: int  #: how many steps it has taken
    parameters: tuple[str, ...]  #: whose gradients hold a NaN or an infinity
    reason: str  #: one line


class StepGuard:
    """Steps an optimiser where all gradients are finite, as a gradient scaler does.

    A NaN or an infinity in a block makes the scale of the block NaN, so it reaches the gradients
    of all weights before it and is seen here.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_norm: float | None = None,
    ) -> None:
        """Guard the steps of an optimiser of the model's parameters.

        Args:
            max_norm: of all gradients together, which are scaled down to it before a step.  Clipped
                before, one NaN would be in all of them, and none could be named.
        Raises:
            ValueError: the norm is not positive.
        """
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm {max_norm}: it must be positive")
        self.model = model
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.taken = 0
        self.refused = 0

    @outside_graphs
    def step(self) -> StepTaken | StepRefused:
        """Step, or warn and leave everything as it is; gradients stay for the caller to look at."""
        graded = [(n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None]
        if not graded:
            raise ValueError("no parameter has a gradient: call backward() before step()")
        bad = _not_finite(graded)
        if not bad:
            if self.max_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
            self.optimizer.step()
            self.taken += 1
            return StepTaken(step=self.taken)
        self.refused += 1
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        reason = (
            f"step {self.taken + 1} refused: the gradient of {bad[0]}{more} is not finite: leave "
            "this batch out, or lower the learning rate"
        )
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
        return StepRefused(step=self.taken, parameters=bad, reason=reason)


def _not_finite(graded: list[tuple[str, torch.Tensor]]) -> tuple[str, ...]:
    """Names of the gradients that hold a NaN or an infinity; every device is waited for once."""
    found: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, grad in graded:
        values = grad.coalesce().values() if grad.is_sparse else grad
        found.setdefault(grad.device, {})[name] = values.isfinite().all()
    good = {
        name: value
        for named in found.values()
        for name, value in zip(named, torch.stack(list(named.values())).tolist(), strict=True)
    }
    return tuple(name for name, _ in graded if not good[name])
