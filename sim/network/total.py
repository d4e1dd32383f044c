"""The sum over a network's operators, with an interval that takes their errors for dependent."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sim.cost import Cost
from sim.gpu import Gpu
from sim.interval import interval_us
from sim.network.attention import Attention
from sim.network.attention_cost import attention_cost
from sim.network.block import Batch, Network
from sim.network.layer import layer_operators
from sim.network.memory import Memory, network_memory
from sim.network.operators import Operator, Part, Phase, Work
from sim.network.streaming import Streaming, streaming_cost
from sim.prediction import Prediction
from tiles.kernels import NumericPath
from tiles.problems import Problem
from tiles.recipes import Recipe

__all__ = ["NetworkCost", "PricedOperator", "Span", "network_cost"]

#: The fastest predicted configuration of a problem over all kernel families, or why there is none.
Best = Callable[[Problem], Prediction | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A predicted time with its 90 % interval, microseconds."""

    time_us: float
    low_us: float
    high_us: float

    @classmethod
    def sum(cls, spans: Iterable["Span"]) -> "Span":
        """One after the other.

        Lower ends add up, and so do upper ends: what a model gets wrong on one operator (clock,
        bandwidth, a family's overhead) it gets wrong on the others too, so the errors are taken
        to go all the same way.  Were they independent, the interval would be far too narrow.
        """
        time_us = low_us = high_us = 0.0
        for span in spans:
            time_us += span.time_us
            low_us += span.low_us
            high_us += span.high_us
        return cls(time_us=time_us, low_us=low_us, high_us=high_us)

    def times(self, count: int) -> "Span":
        """So many of them, one after the other."""
        return Span(
            time_us=count * self.time_us, low_us=count * self.low_us, high_us=count * self.high_us
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedOperator:
    """An operator of one layer with its predicted time."""

    operator: Operator
    span: Span
    kernel: str  #: family that runs it; empty: no family does
    path: NumericPath


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """What a network takes under one recipe.  Every time in it is predicted."""

    network: Network
    batch: Batch
    recipe: Recipe
    gpu: str
    training: bool
    operators: tuple[PricedOperator, ...]  #: of one layer
    memory: Memory

    def span(self, phase: Phase | None = None, part: Part | None = None) -> Span:
        """All layers' operators of a phase, of a part, or of both; all without either."""
        chosen = (
            one.span
            for one in self.operators
            if phase in (None, one.operator.phase) and part in (None, one.operator.part)
        )
        return Span.sum(chosen).times(self.network.layers)

    @property
    def parts(self) -> Mapping[Part, Span]:
        """The breakdown: parts that there are, in their order."""
        present = {one.operator.part for one in self.operators}
        return {part: self.span(part=part) for part in Part if part in present}

    @property
    def flops(self) -> int:
        """Operations that count as work; a training step has three times a forward pass's."""
        return self.network.layers * sum(one.operator.flops for one in self.operators)

    @property
    def path(self) -> NumericPath:
        """Emulated as soon as one product is."""
        products = (p for p in self.operators if p.operator.part is Part.PRODUCTS)
        emulated = any(p.path is NumericPath.EMULATED for p in products)
        return NumericPath.EMULATED if emulated else NumericPath.NATIVE


def _own(cost: Cost, gpu: Gpu) -> Span:
    """The span of a cost function's only row."""
    low, high = interval_us(cost.time_us, cost.terms_us, NumericPath.NATIVE, measured=gpu.measured)
    return Span(time_us=float(cost.time_us[0]), low_us=float(low[0]), high_us=float(high[0]))


def _priced(work: Work, gpu: Gpu, best: Best) -> tuple[Span, str, NumericPath] | str:
    if isinstance(work, Attention):
        return _own(attention_cost(work, gpu), gpu), "", NumericPath.NATIVE
    if isinstance(work, Streaming):
        return _own(streaming_cost(work, gpu), gpu), "", NumericPath.NATIVE
    found = best(work)
    if isinstance(found, str):
        return found
    span = Span(time_us=found.time_us, low_us=found.low_us, high_us=found.high_us)
    return span, found.kernel, found.path


def _price(operator: Operator, gpu: Gpu, best: Best) -> PricedOperator | str:
    """An operator's price, or why there is none."""
    found = _priced(operator.work, gpu, best)
    if isinstance(found, str):
        return f"{operator.name}: {operator.work}: {found}"
    span, kernel, path = found
    return PricedOperator(operator=operator, span=span, kernel=kernel, path=path)


def network_cost(
    network: Network,
    batch: Batch,
    recipe: Recipe,
    gpu: Gpu,
    best: Best,
    *,
    training: bool = False,
) -> NetworkCost | str:
    """Time and memory of a network under a recipe, or why it cannot be told.

    Args:
        best: prices a problem with the kernel families.
        training: forward, backward and one step of the optimiser; without it forward alone.
    Raises:
        ValueError: an operator's tensors exceed what a problem may have.
    """
    if training and not recipe.trains:
        return f"{recipe.name} is for inference: choose a recipe that trains"
    priced: list[PricedOperator] = []
    for operator in layer_operators(network.block, batch, recipe, training=training):
        one = _price(operator, gpu, best)
        if isinstance(one, str):
            return one
        priced.append(one)
    return NetworkCost(
        network=network,
        batch=batch,
        recipe=recipe,
        gpu=gpu.name,
        training=training,
        operators=tuple(priced),
        memory=network_memory(network, batch, recipe, training=training),
    )
