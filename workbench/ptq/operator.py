"""A place in a model where numbers are rounded, and the phases that all of them go through."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch

from tiles.recipes import Recipe
from workbench.ptq.operand import Operand
from workbench.ptq.scheme import Kind, Scheme
from workbench.ptq.weight_operand import WeightOperand

__all__ = ["Noise", "Operator", "Phase", "Session"]


class Phase(Enum):
    """What operators do when the model is called."""

    EXACT = "exact"  #: compute in high precision
    CHANNELS = "channels"  #: the same, and collect what smoothing needs
    OBSERVE = "observe"  #: the same, and collect what scales need
    MEASURE = "measure"  #: the same, and compare with the rounded output
    RUN = "run"  #: compute on rounded operands, but for those that are kept


@dataclass(slots=True)
class Noise:
    """Energy of an operator's output and of its error, its inputs in high precision."""

    signal: float = 0.0
    error: float = 0.0

    def add(self, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        """Take one output in."""
        wide = exact.double()
        self.signal += float(wide.square().sum())
        self.error += float((rounded.double() - wide).square().sum())

    @property
    def ratio(self) -> float:
        """Noise-to-signal ratio; infinite where the output turned into NaN."""
        if self.error == 0:
            return 0.0
        ratio = self.error / self.signal if self.signal > 0 else float("inf")
        return ratio if ratio == ratio else float("inf")


@dataclass(slots=True)
class Session:
    """What the operators of one model share."""

    recipe: Recipe
    scheme: Scheme
    phase: Phase = Phase.EXACT
    operators: "dict[str, Operator]" = field(default_factory=dict)
    #: Names of operators in the order of their first calls; a dictionary for its speed.
    order: dict[str, None] = field(default_factory=dict)
    #: Functions that are no operator of the scheme, by where they are called.
    unknown: dict[str, str] = field(default_factory=dict)
    batch: int = 0  #: of calibration, counted from 1, while one is run; else 0
    launches: bool = False  #: a backend was given, which multiplies on every device
    found: bool = False  #: True once no further operators are looked for


class Operator:
    """One quantised operator of a model; layers and intercepted functions call :meth:`apply`."""

    def __init__(
        self, name: str, kind: Kind, session: Session, operands: dict[str, Operand]
    ) -> None:
        """Join a session.

        Args:
            name: place in the model, as ``encoder.0.query`` or ``encoder.0:matmul``.
            kind: what the scheme calls it.
            session: shared with the model's other operators.
            operands: those that are activations, by their role.
        """
        self.name, self.kind, self.session = name, kind, session
        self.operands = operands
        self.weight: WeightOperand | None = None  #: of a function that multiplies by one
        self.kept = ""  #: why it stays in high precision; empty: it is quantised
        self.notes: list[str] = []
        self.noise = Noise()
        session.operators[name] = self

    def observe(self, values: dict[str, torch.Tensor]) -> None:
        """Take the operands of a call of calibration in.

        Raises:
            ValueError: one of them is not finite; the message names the operator.
        """
        for role, x in values.items():
            try:
                self.operands[role].observe(x)
            except ValueError as error:
                raise ValueError(
                    f"calibration: the {role} of {self.name or 'the model'} {error} in batch "
                    f"{self.session.batch}: leave that batch out, or mend the model"
                ) from error

    def apply(
        self,
        exact: Callable[[], torch.Tensor],
        rounded: Callable[[], torch.Tensor],
        values: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The operator's output in the session's phase.

        Args:
            exact: computes it in high precision.
            rounded: computes it on rounded operands.
            values: operands that are activations, by their role.
        """
        session = self.session
        session.order.setdefault(self.name)
        match session.phase:
            case Phase.RUN:
                return exact() if self.kept else rounded()
            case Phase.OBSERVE:
                self.observe(values)
            case Phase.MEASURE if not self.kept:
                y = exact()
                self.noise.add(y, rounded())
                return y
        return exact()
