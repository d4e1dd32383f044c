"""Which rows of a grouped product belong to which expert, drawn at random."""

from dataclasses import dataclass

import torch

from tiles.problems import GroupedGemm, RowOrder

__all__ = ["Routing", "draw_routing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Where each expert's rows are read and written; tensors on the CPU."""

    counts: torch.Tensor  #: (E,) int64 rows of each expert
    first: torch.Tensor  #: (E,) int64 first row of each in A's memory; gathered: in ``ids``
    ids: torch.Tensor | None  #: (M,) int64 (token, choice) pairs by expert, where gathered
    top_k: int

    def written(self, expert: int) -> torch.Tensor:
        """Rows of C's memory that the expert's rows go to, int64."""
        start, count = int(self.first[expert]), int(self.counts[expert])
        if self.ids is not None:
            return self.ids[start : start + count]
        return torch.arange(start, start + count)

    def read(self, expert: int) -> torch.Tensor:
        """Rows of A's memory that the expert's rows come from, int64."""
        return self.written(expert) // self.top_k


def draw_routing(problem: GroupedGemm, seed: int) -> Routing:
    """Rows choose experts independently and alike; gathered tokens choose ``top_k`` different ones.

    Rows beyond a masked expert's capacity go to the first experts that have room.
    """
    generator = torch.Generator().manual_seed(seed)
    experts, size = problem.experts, problem.layout.size
    if problem.layout.order is RowOrder.GATHERED:
        wishes = torch.rand(problem.a_rows, experts, generator=generator)
        chosen = wishes.topk(size, dim=1).indices.flatten()
        ids = torch.argsort(chosen, stable=True)
        counts = torch.bincount(chosen, minlength=experts)
        return Routing(counts=counts, first=_before(counts), ids=ids, top_k=size)
    chosen = torch.randint(experts, (problem.m,), generator=generator)
    counts = torch.bincount(chosen, minlength=experts)
    if problem.layout.order is RowOrder.MASKED:
        excess = int((counts - size).clamp(min=0).sum())
        counts = counts.clamp(max=size)
        for expert in range(experts):
            taken = min(excess, size - int(counts[expert]))
            counts[expert] += taken
            excess -= taken
        first = torch.arange(experts) * size
    elif problem.layout.order is RowOrder.PADDED:
        first = _before(-(-counts // size) * size)
    else:
        first = _before(counts)
    return Routing(counts=counts, first=first, ids=None, top_k=1)


def _before(counts: torch.Tensor) -> torch.Tensor:
    """Sums of the entries before each."""
    return torch.cumsum(counts, 0) - counts
