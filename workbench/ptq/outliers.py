"""Linear layers with outlier columns apart: LLM.int8()."""

import torch
from torch.nn import functional as F

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.recipes import OutlierColumns
from workbench.ptq.operand import Operand

__all__ = ["OutlierWeights"]


class OutlierWeights:
    """Weights in 16 bits of the columns that calibration saw outliers in.

    Columns of each call's input with some ``|x| > threshold`` are multiplied in 16 bits; all others
    as codes, under scales of what is left.  Weights of a column that becomes one later, which
    calibration did not see, are what their codes stand for.
    Source: LLM.int8(), arXiv 2208.07339, section 3.2.
    """

    def __init__(self, outliers: OutlierColumns) -> None:
        self.outliers = outliers
        self.seen: torch.Tensor | None = None  #: (K) bool
        self.columns: torch.Tensor | None = None  #: int64, ascending
        self.weights: torch.Tensor | None = None  #: (N, columns) in 16 bits

    def see(self, x: torch.Tensor) -> None:
        """Take (rows, K) inputs of calibration in."""
        wide = self._wide(x)
        self.seen = wide if self.seen is None else self.seen | wide

    def _wide(self, x: torch.Tensor) -> torch.Tensor:
        return (x.abs() > self.outliers.threshold).any(dim=0)

    def take(self, weight: torch.Tensor) -> None:
        """Keep the columns of an (N, K) weight that were seen."""
        if self.seen is None:
            self.seen = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
        self.restore(self.seen.nonzero()[:, 0], weight[:, self.seen])

    def restore(self, columns: torch.Tensor, weights: torch.Tensor) -> None:
        """Take kept columns as they are."""
        self.columns = columns
        self.weights = weights.to(CODE_DTYPES[self.outliers.kept.name])

    def full(self, values: torch.Tensor) -> torch.Tensor:
        """(N, K) weights that outlier columns are multiplied by.

        Args:
            values: what the weight's codes stand for.
        """
        assert self.columns is not None
        assert self.weights is not None
        columns, weights = (p.to(values.device) for p in (self.columns, self.weights))
        self.columns, self.weights = columns, weights
        made = values.clone()
        made[:, columns] = weights.to(made.dtype)
        return made

    def product(
        self, x: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, operand: Operand
    ) -> torch.Tensor:
        """``x · W^T + bias`` of (..., K), its outlier columns in 16 bits.

        Args:
            values: (N, K) what the weight's codes stand for.
            operand: rounds what is no outlier.
        """
        matrix = x.reshape(-1, x.shape[-1])
        wide = self._wide(matrix)
        low = F.linear(operand.rounded(matrix.masked_fill(wide, 0.0)), values, bias)
        if bool(wide.any()):
            full = self.full(values)
            kept = CODE_DTYPES[self.outliers.kept.name]
            few = matrix[:, wide].clamp(-torch.finfo(kept).max, torch.finfo(kept).max).to(kept)
            low = low + F.linear(few.to(x.dtype), full[:, wide])
        return low.view(*x.shape[:-1], low.shape[-1])
