"""An operator of a layer: what it computes, in which pass, and what it counts as."""

from dataclasses import dataclass
from enum import Enum

from sim.network.attention import Attention
from sim.network.streaming import Streaming
from tiles.problems import Problem

__all__ = ["Operator", "Part", "Phase", "Work"]

#: A problem is priced by the kernel families that serve it, the others by functions of their own.
Work = Problem | Attention | Streaming


class Phase(Enum):
    """When an operator runs."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"  #: the optimiser's step, once for any number of forward and backward passes


class Part(Enum):
    """What an operator counts as in a breakdown."""

    PRODUCTS = "products"
    ATTENTION = "attention"
    NORMALIZATION = "norm"
    ACTIVATION = "activation"
    RESIDUAL = "residual"
    QUANTIZE = "quantize"  #: quantising, dequantising, transposing codes, casts
    OPTIMIZER = "optimizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One kernel launch of a layer, or what stands for a few."""

    name: str  #: e.g. "qkv" or "qkv wgrad"
    part: Part
    phase: Phase
    work: Work

    @property
    def flops(self) -> int:
        """Operations that count as work: those of products and of attention."""
        return 0 if isinstance(self.work, Streaming) else self.work.flops
