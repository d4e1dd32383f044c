"""Gradients of gradients are refused: a backward pass on codes has no derivative of its own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from workbench.nn.compiled import outside_graphs

__all__ = ["first_order"]


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a backward pass that autograd is to differentiate once more; compile none.

    ``torch.autograd.function.once_differentiable`` refuses the second pass alone, and only where
    the incoming gradient has a graph: a penalty on gradients that has none would be left out.

    Raises:
        RuntimeError: in the backward pass, under ``create_graph=True``.
    """

    @outside_graphs
    @wraps(backward)
    def refusing(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: gradients through codes have no gradients of their own; leave "
                "it out, or keep these layers in high precision (convert's keep)"
            )
        return backward(ctx, *grads)

    return refusing
