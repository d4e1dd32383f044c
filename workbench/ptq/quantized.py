"""What quantisation made of a model: its operators with their formats, and what was kept."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tiles.recipes import Recipe
from workbench.ptq.kernel_path import KernelPath
from workbench.ptq.layers import QuantizedLayer
from workbench.ptq.operator import Operator, Session
from workbench.ptq.options import Asked
from workbench.ptq.scheme import Scheme
from workbench.ptq.search import Scores

__all__ = ["SCHEMA", "Kept", "OperatorRecord", "Quantized", "quantized_of"]

SCHEMA = "tile-workbench/quantized/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRecord:
    """One quantised operator."""

    name: str
    kind: str
    #: Tensor format by operand: ``input``, ``left``, ``right``, ``weight``.
    formats: dict[str, str]
    scales: dict[str, str]  #: where each operand's scales come from, see ``Scales``
    #: Noise-to-signal ratio of its output, alone, on calibration data; ``None``: not measured.
    sensitivity: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An operator that stays in high precision."""

    name: str
    kind: str  #: of a scheme; empty where a scheme has no such kind
    reason: str
    sensitivity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A quantised model and its record."""

    model: nn.Module
    recipe: Recipe
    scheme: Scheme
    operators: tuple[OperatorRecord, ...]
    kept: tuple[Kept, ...]
    scores: Scores | None  #: ``None``: nothing scored it
    asked: Asked
    session: Session
    path: KernelPath

    @property
    def ran(self) -> dict[str, str]:
        """What multiplied linear layers so far, by formats and kind of device."""
        return dict(self.path.ran)

    @property
    def unmet(self) -> dict[str, str]:
        """Calls since that calibration did not meet: they computed in high precision."""
        known = {kept.name for kept in self.kept}
        # A copy: another thread may run the model and meet more.
        return {n: why for n, why in dict(self.session.unknown).items() if n not in known}

    def save(self, path: str | Path) -> Path:
        """Write codes, scales, all other tensors and the record into one safetensors file.

        Raises:
            ValueError: the path cannot be written.
        """
        from workbench.ptq.storage import save

        return save(self, Path(path))

    def record(self) -> dict[str, Any]:
        """JSON-ready mapping: all but the tensors."""
        scores = self.scores
        return {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "activation": str(self.recipe.activation),
            "weight": str(self.recipe.weight),
            "scheme": self.scheme.name,
            "scheme_options": self.scheme.to_dict(),
            "options": self.asked.to_dict(),
            "operators": [
                {
                    "name": o.name,
                    "kind": o.kind,
                    "formats": o.formats,
                    "scales": o.scales,
                    "sensitivity": _finite(o.sensitivity),
                    "notes": list(o.notes),
                }
                for o in self.operators
            ],
            "kept": [
                {
                    "name": k.name,
                    "kind": k.kind,
                    "reason": k.reason,
                    "sensitivity": _finite(k.sensitivity),
                }
                for k in self.kept
            ],
            "scores": None
            if scores is None
            else {
                "reference": scores.reference,
                "quantized": _finite(scores.quantized),
                "final": _finite(scores.final),
                "criterion": scores.criterion,
                "holds": scores.holds,
                "trials": [
                    {
                        "action": t.action,
                        "operator": t.operator,
                        "sensitivity": _finite(t.sensitivity),
                        "score": _finite(t.score),
                        "loss": _finite(t.loss),
                        "holds": t.holds,
                        "stays": t.stays,
                    }
                    for t in scores.trials
                ],
            },
        }

    def __str__(self) -> str:
        lines = [f"{len(self.operators)} operators follow {self.recipe.name} ({self.scheme})"]
        grouped: dict[str, list[str]] = defaultdict(list)
        for one in self.kept:
            grouped[one.reason].append(one.name)
        for reason, names in grouped.items():
            more = f" and {len(names) - 4} more" if len(names) > 5 else ""
            shown = names if len(names) <= 5 else names[:4]
            lines.append(f"kept in high precision: {', '.join(shown)}{more}: {reason}")
        return "\n".join(lines)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) != float("inf") and value == value else None


def quantized_of(
    model: nn.Module,
    session: Session,
    path: KernelPath,
    asked: Asked,
    *,
    scores: Scores | None,
    measured: bool,
) -> Quantized:
    """The record of a model whose operators are settled."""
    layers = {m.operator.name: m for m in model.modules() if isinstance(m, QuantizedLayer)}
    records, kept = [], []
    ordered = [session.operators[name] for name in session.order]
    ordered += [o for o in session.operators.values() if o.name not in session.order]
    for operator in ordered:
        noise = operator.noise.ratio if measured else None
        if operator.kept:
            one = Kept(name=operator.name, kind=str(operator.kind), reason=operator.kept)
            kept.append(one if noise is None else _with_noise(one, noise))
            continue
        records.append(_record(operator, layers.get(operator.name), noise))
    kept += [Kept(name=n, kind="", reason=reason) for n, reason in session.unknown.items()]
    return Quantized(
        model=model,
        recipe=session.recipe,
        scheme=session.scheme,
        operators=tuple(records),
        kept=tuple(kept),
        scores=scores,
        asked=asked,
        session=session,
        path=path,
    )


def _with_noise(one: Kept, noise: float) -> Kept:
    return Kept(name=one.name, kind=one.kind, reason=one.reason, sensitivity=noise)


def _record(
    operator: Operator, layer: QuantizedLayer | None, noise: float | None
) -> OperatorRecord:
    formats = {role: str(o.format) for role, o in operator.operands.items()}
    scales = {role: str(o.scales) for role, o in operator.operands.items()}
    if layer is not None:
        assert layer.codes is not None
        formats["weight"], scales["weight"] = str(layer.codes.format), "weight"
    elif operator.weight is not None:
        formats["weight"], scales["weight"] = str(operator.weight.format), "weight"
    return OperatorRecord(
        name=operator.name,
        kind=str(operator.kind),
        formats=formats,
        scales=scales,
        sensitivity=noise,
        notes=tuple(operator.notes),
    )
