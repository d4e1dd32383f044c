"""The fastest predicted configuration of a problem, over families, priced once."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sim import Gpu, Prediction, price, unpriced
from tiles.formats import ElementFormat
from tiles.kernels import Kernel, telling
from tiles.problems import Gemm, Problem

if TYPE_CHECKING:
    from sim.calibration import Calibration

__all__ = ["Pricer"]


class Pricer:
    """Prices problems on one GPU; products of the same operands, under whatever recipe, once."""

    def __init__(
        self, gpu: Gpu, families: Sequence[Kernel], calibration: "Calibration | None" = None
    ) -> None:
        self.gpu = gpu
        self.limits = gpu.limits  # made anew at every look: thousands of them in a table
        self.calibration = calibration
        self.families = families
        self.known: dict[Hashable, Prediction | None] = {}

    def best(self, problem: Problem) -> Prediction | str:
        """The fastest predicted configuration over all families, or why there is none."""
        reasons: list[str] = []
        found: list[Prediction] = []
        for family in self.families:
            if reason := family.refusal(problem, self.limits):
                reasons.append(reason)
                continue
            if reason := unpriced(problem, family):
                reasons.append(reason)
                continue
            prediction = self._price(problem, family)
            if prediction is None:
                reasons.append(f"{family.name} has no legal configuration")
                continue
            found.append(prediction)
        if not found:
            return "; ".join(telling(reasons, problem)) or "no kernel family was chosen"
        return replace(min(found, key=lambda prediction: prediction.time_us), problem=problem)

    def _price(self, problem: Problem, family: Kernel) -> Prediction | None:
        """The family's fastest configuration; ``None`` without a legal one."""
        computed: Hashable = _computed(problem, self.gpu)
        if self.calibration is not None and isinstance(problem, Gemm):
            # Rates and intervals were measured element by element.
            one = problem.recipe
            computed = (computed, one.activation.element, one.weight.element)
        key = (family.name, computed)
        if key not in self.known:
            legal = family.legal_space(problem, self.limits).accepted
            pricing = price if self.calibration is None else self.calibration.price
            self.known[key] = (
                pricing(problem, family, legal, self.gpu).best() if len(legal) else None
            )
        return self.known[key]


def _computed(problem: Problem, gpu: Gpu) -> Hashable:
    """What kernels and cost model see of a problem.

    Recipes that differ in training alone have one product; elements of one width, kind and rate,
    as e4m3fn and e5m2 often are, cost the same.
    """
    if not isinstance(problem, Gemm):
        return problem
    one = problem.recipe
    formats = (
        (*_cost_class(fmt.element, gpu), fmt.scaling, fmt.plain)
        for fmt in (one.activation, one.weight)
    )
    same = one.activation.element == one.weight.element
    return (problem.shape, problem.out, *formats, one.outliers, same)


def _cost_class(element: ElementFormat, gpu: Gpu) -> tuple[object, ...]:
    if element.name not in gpu.native_elements:
        return (element,)  # it is refused, or decoded by its own instructions
    return (type(element), element.bits, gpu.tensor_flop_per_clk[element.name])
