"""What of the activations stays out of an int8 product: whole columns, or blocks stored twice."""

from dataclasses import dataclass

import torch

__all__ = ["COLUMN_STEP", "FallbackBlocks", "KeptColumns"]

#: Columns that memory for kept columns is a multiple of: the deepest iteration over them.
COLUMN_STEP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptColumns:
    """Columns along K of both operands, gathered in 16 bits; source: LLM.int8(), arXiv 2208.07339.

    Memory is there for ``capacity`` columns, a multiple of ``COLUMN_STEP``; how many are in use the
    device alone knows, so that a CUDA graph replays with other columns.  Behind the last one in
    use, up to the next multiple of ``COLUMN_STEP``, both matrices hold zeros.
    """

    a: torch.Tensor  #: (M, capacity) fp16 or bf16, rows contiguous
    b: torch.Tensor  #: (N, capacity) of the same dtype, rows contiguous
    count: torch.Tensor  #: (1,) int32 columns in use; beyond the capacity it is taken for that

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {"a": self.a, "b": self.b, "count": self.count}


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackBlocks:
    """The second step of activation blocks that fall back; source: arXiv 2503.08040.

    Block row r has entries ``offsets[r]`` to ``offsets[r + 1]``; entry e holds what the first codes
    leave of block ``columns[e]`` of its row.  Memory is there for ``capacity`` entries.
    """

    codes: torch.Tensor  #: (capacity, rows, columns of a block) int8, zeros beyond the matrix
    scales: torch.Tensor  #: (capacity,) fp32
    columns: torch.Tensor  #: (capacity,) int32 column of blocks; entries off the grid add nothing
    offsets: torch.Tensor  #: (block rows + 1,) int32; clamped to the capacity

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by name."""
        return {
            "codes": self.codes,
            "scales": self.scales,
            "columns": self.columns,
            "offsets": self.offsets,
        }
