"""A product of two activations as a module: for models that want to name it, or hook it."""

import torch
from torch import nn

__all__ = ["MatMul"]


class MatMul(nn.Module):
    """``torch.matmul`` under a name in the model.

    Quantisation finds products wherever they are called (:mod:`workbench.ptq.interceptor`); in a
    module of its own one has a name that does not depend on what else the caller computes, and that
    ``keep`` and hooks can use.
    """

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """(..., M, K) by (..., K, N) to (..., M, N)."""
        return left @ right
