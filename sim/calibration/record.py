"""A calibration: what a GPU taught the cost model, and how predictions take it."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sim.calibration.conformal import width_of
from sim.calibration.features import features
from sim.calibration.residual import Residual
from sim.gpu import Gpu
from sim.model import price
from sim.parameters import Parameters
from sim.prediction import PricedTable
from tiles.formats import TensorFormat
from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem

__all__ = ["Calibration", "FamilyCalibration", "element_name"]

F64 = NDArray[np.float64]

#: An interval is this much wider, in units of its own width, for every doubling of an extent
#: beyond those that were measured, and for an element that was not.  Errors on what was measured
#: may be small by luck: an interval that is ``wider`` times as wide has ``1 - 1 / wider`` of the
#: one without measurements beside it (:func:`_widened`).
WIDER_PER_DOUBLING = 0.5
WIDER_FOR_ELEMENT = 0.5


def element_name(problem: Problem) -> str:
    """What a problem's formats are told apart by; "" where it has none.

    The element, or those of activations and weights where they differ: ``bf16 by int4``; scales in
    blocks cost a product work of their own, so they are told apart: ``int8 in blocks``.
    """
    recipe = getattr(problem, "recipe", None)
    if recipe is not None:
        names = dict.fromkeys((recipe.activation.element.name, recipe.weight.element.name))
        return " by ".join(names) + (" in blocks" if recipe.blockwise else "")
    for owner in ("target", "source"):
        fmt = getattr(problem, owner, None)
        if isinstance(fmt, TensorFormat):
            return fmt.element.name
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyCalibration:
    """What timings of one kernel family taught beyond its template parameters."""

    rows: int  #: timings
    shapes: int  #: shapes among them
    extents: Mapping[str, tuple[tuple[int, int], ...]]  #: problem kind to (least, most) by axis
    elements: tuple[str, ...]  #: that were measured
    residual: Residual | None  #: None where it did not help shapes that it had not seen
    widths: Mapping[
        str, float
    ]  #: half-widths in log time by stratum, see sim.calibration.conformal
    prior_error: float  #: mean |log measured / predicted| without calibration
    physics_error: float  #: the same on left-out shapes, after the fit of the parameters
    residual_error: float | None  #: the same with the residual; None where none was tried

    def beyond(self, problem: Problem) -> tuple[str, float]:
        """What of a problem was not measured, and how much wider its interval is for that.

        Returns:
            One line, "" when nothing is beyond, and the factor on the width, 1 then.
        """
        reasons: list[str] = []
        wider = 1.0
        ranges = self.extents.get(problem.kind)
        if ranges is None or len(ranges) != len(problem.shape):
            return f"{problem.kind} problems were not measured", 1.0 + WIDER_PER_DOUBLING
        for axis, (extent, (least, most)) in enumerate(zip(problem.shape, ranges, strict=True)):
            doublings = max(math.log2(extent / most), math.log2(least / extent), 0.0)
            if doublings > 0:
                wider += WIDER_PER_DOUBLING * doublings
                reasons.append(f"extent {axis} = {extent} beyond {least}..{most}")
        element = element_name(problem)
        if element not in self.elements:
            wider += WIDER_FOR_ELEMENT
            reasons.append(f"{element} was not measured")
        return "; ".join(reasons), wider


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Figures, template parameters, residuals and intervals of one GPU.

    :meth:`price` stands in for :func:`sim.price`.
    """

    base: Gpu  #: as its file says
    figures: Mapping[str, float]  #: measured and fitted, by name; tensor_flop_per_clk.ELEMENT too
    templates: Mapping[str, Parameters]  #: fitted, by family
    families: Mapping[str, FamilyCalibration]
    title: str  #: one line: which device, when, how much
    notes: tuple[str, ...] = ()  #: what of it does not fit any more and is left out, a line each
    text: str = field(default="", repr=False)  #: of its file; "" without one
    gpu: Gpu = field(init=False)  #: with the figures

    def __post_init__(self) -> None:
        rates = dict(self.base.tensor_flop_per_clk)
        plain: dict[str, float] = {}
        for name, value in self.figures.items():
            owner, _, element = name.partition(".")
            if element:
                rates[element] = value
            else:
                plain[owner] = round(value) if type(getattr(self.base, owner)) is int else value
        sources = dict(self.base.sources) | dict.fromkeys(self.figures, self.title)
        object.__setattr__(
            self,
            "gpu",
            replace(self.base, tensor_flop_per_clk=rates, sources=sources, **plain),  # type: ignore[arg-type]  # figures are numbers
        )

    @property
    def digest(self) -> str:
        """SHA-256 of its file."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def price(
        self,
        problem: Problem,
        kernel: Kernel,
        table: ConfigTable,
        gpu: Gpu,
        facts: Mapping[int, CompileFacts] | None = None,
    ) -> PricedTable:
        """Like :func:`sim.price`, with what was learned on the GPU.

        Raises:
            ValueError: another GPU's, or what :func:`sim.price` refuses.
        """
        if gpu.text != self.base.text:
            raise ValueError(
                f"the calibration is of {self.base.name}, not of {gpu.name}: calibrate that GPU, "
                "or predict without, --calibration none"
            )
        priced = price(problem, kernel, table, self.gpu, facts, parameters=self.templates)
        family = self.families.get(kernel.name)
        return priced if family is None else _corrected(priced, family, self.gpu)


def _corrected(priced: PricedTable, family: FamilyCalibration, gpu: Gpu) -> PricedTable:
    """With the residual's correction and the conformal interval."""
    time_us = priced.time_us
    residual = family.residual
    if residual is not None:
        names, numbers = features(priced, gpu.sm_count)
        # A family whose fields have changed since has no features to go by.
        if names == residual.names:
            time_us = time_us * np.exp(residual.correction(numbers))
    beyond, wider = family.beyond(priced.problem)
    element = element_name(priced.problem)
    terms = list(priced.terms_us)
    prior = np.log(priced.high_us / priced.time_us)
    known = np.array(
        [np.nan if (w := width_of(family.widths, name, element)) is None else w for name in terms]
    )
    binding = np.argmax(np.stack(list(priced.terms_us.values())), axis=0)
    widths = known[binding]
    factor = np.exp(np.where(np.isnan(widths), prior * wider, _widened(widths, prior, wider)))
    return replace(
        priced,
        time_us=time_us,
        low_us=time_us / factor,
        high_us=time_us * factor,
        calibrated=True,
        extrapolated=beyond,
    )


def _widened(width: F64, prior: F64, wider: float) -> F64:
    """A calibrated width, so many times as wide, and of the prior's the share that comes back.

    Independent errors: those of what was measured, and those of what sets the problem apart.
    """
    both: F64 = np.hypot(width * wider, prior * (1.0 - 1.0 / wider))
    return both
