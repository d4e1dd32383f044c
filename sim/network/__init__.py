"""A transformer as a sum of operators: time forward and backward, and memory, per recipe."""

from sim.network.block import Activation, Batch, Block, Linear, Network, Normalization
from sim.network.memory import Memory, network_memory
from sim.network.operators import Operator, Part, Phase
from sim.network.total import NetworkCost, PricedOperator, Span, network_cost

__all__ = [
    "Activation",
    "Batch",
    "Block",
    "Linear",
    "Memory",
    "Network",
    "NetworkCost",
    "Normalization",
    "Operator",
    "Part",
    "Phase",
    "PricedOperator",
    "Span",
    "network_cost",
    "network_memory",
]
