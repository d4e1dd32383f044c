"""A matrix that comes in parts and leaves in codes."""

from collections.abc import Callable
from typing import Protocol

import torch

from workbench.nn.codes import Codes

__all__ = ["Assembly", "JoinedNumbers"]


class Assembly(Protocol):
    """Codes of a whole matrix whose parts come one after another; no part comes twice."""

    def put(self, x: torch.Tensor, row: int, col: int) -> None:
        """Take a part (r, c) that begins at a row and a column."""

    def codes(self) -> Codes:
        """Those of the whole, when all of it has come."""


class JoinedNumbers:
    """Puts the numbers together first, and quantises them at the end."""

    def __init__(self, matrix: torch.Tensor, quantize: Callable[[torch.Tensor], Codes]) -> None:
        """Write to a matrix (R, C) that is there."""
        self._matrix = matrix
        self._quantize = quantize

    def put(self, x: torch.Tensor, row: int, col: int) -> None:
        rows, cols = x.shape
        self._matrix[row : row + rows, col : col + cols] = x

    def codes(self) -> Codes:
        return self._quantize(self._matrix)
