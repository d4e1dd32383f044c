"""Waves: how the tiles of a problem fill the multiprocessors, and what the last one leaves idle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Waves", "waves"]

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """Full waves and the partial one behind them, one entry a configuration."""

    tiles: I64
    capacity: I64  #: CTAs resident together
    full: I64  #: number of full waves
    tail_ctas: I64  #: CTAs of the partial wave, 0 when the last wave is full
    tail_per_sm: I64  #: CTAs on the fullest SM of the partial wave
    tail_sms: I64  #: SMs that work in the partial wave

    @property
    def count(self) -> I64:
        """Waves, the partial one included."""
        return self.full + (self.tail_ctas > 0)

    def take(self, rows: I64) -> "Waves":
        """Those of some rows."""
        return Waves(
            tiles=self.tiles[rows],
            capacity=self.capacity[rows],
            full=self.full[rows],
            tail_ctas=self.tail_ctas[rows],
            tail_per_sm=self.tail_per_sm[rows],
            tail_sms=self.tail_sms[rows],
        )


def waves(tiles: I64, occupancy: I64, sm_count: int | I64) -> Waves:
    """Distribute ``tiles`` CTAs over ``sm_count`` SMs that hold ``occupancy`` each.

    The partial wave is spread evenly, as the hardware's block scheduler does.
    """
    capacity = occupancy * sm_count
    full = tiles // capacity
    tail = tiles - full * capacity
    return Waves(
        tiles=tiles,
        capacity=capacity,
        full=full,
        tail_ctas=tail,
        tail_per_sm=-(-tail // sm_count),
        tail_sms=np.minimum(tail, sm_count),
    )
