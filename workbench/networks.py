"""Which recipe pays on a whole network: predicted time and memory of its layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import Gpu, load_gpu
from sim.calibration.folder import choose_calibration
from sim.network import Batch, Memory, NetworkCost, Phase, Span, network_cost
from tiles.kernels import kernels
from tiles.recipes import RECIPES, recipe
from workbench.arguments import count_of, items_of, path_of
from workbench.network_models import read_network
from workbench.predictions import BASELINE
from workbench.pricer import Pricer

__all__ = ["NetworkReport", "NetworkRow", "RefusedRecipe", "predict_network"]

SCHEMA = "tile-workbench/network/1"
#: How the JSON says what :meth:`sim.network.Span.sum` does.
COMBINED = "interval ends added up: errors of operators are taken to be dependent"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRow:
    """One recipe on a network.  Every figure in it is predicted."""

    cost: NetworkCost
    baseline: NetworkCost | None  #: bf16; ``None`` where no family runs it

    @property
    def passes(self) -> Span:
        """Forward and, with training, backward; the optimiser's step stands apart."""
        return Span.sum([self.cost.span(Phase.FORWARD), self.cost.span(Phase.BACKWARD)])

    @property
    def speedup(self) -> float | None:
        """Over bf16, forward and backward together, quantising included."""
        if self.baseline is None:
            return None
        whole = NetworkRow(cost=self.baseline, baseline=None).passes
        return whole.time_us / self.passes.time_us

    @property
    def memory_ratio(self) -> float | None:
        """bf16's memory over this one, weights to working memory."""
        return None if self.baseline is None else _ratio(self.baseline, self.cost, "total")

    @property
    def step_memory_ratio(self) -> float | None:
        """The same of what a step allocates: saved activations and working memory."""
        return None if self.baseline is None else _ratio(self.baseline, self.cost, "step")


def _ratio(whole: NetworkCost, low: NetworkCost, field: str) -> float:
    above: int = getattr(whole.memory, field)
    below: int = getattr(low.memory, field)
    return above / below


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRecipe:
    """A recipe that the network cannot be told for, and why."""

    recipe: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkReport:
    """What :func:`predict_network` answers."""

    gpu: str
    model: str
    layers: int
    batch: Batch
    training: bool
    rows: tuple[NetworkRow, ...]
    refused: tuple[RefusedRecipe, ...]
    calibration: tuple[str, ...] = ()  #: which calibration was used and what of it was not, by line

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping with a schema version."""
        return {
            "schema": SCHEMA,
            "gpu": self.gpu,
            "model": self.model,
            "layers": self.layers,
            "batch": self.batch.sequences,
            "sequence": self.batch.length,
            "training": self.training,
            "intervals": COMBINED,
            "calibration": list(self.calibration),
            "predicted": [_row_dict(row) for row in self.rows],
            "refused": [{"recipe": r.recipe, "reason": r.reason} for r in self.refused],
        }


def _span_dict(span: Span) -> dict[str, Any]:
    return {
        "predicted_time_us": span.time_us,
        "predicted_interval_us": [span.low_us, span.high_us],
    }


def _memory_dict(memory: Memory) -> dict[str, int]:
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "working": memory.working,
        "total": memory.total,
    }


def _row_dict(row: NetworkRow) -> dict[str, Any]:
    cost = row.cost
    phases = [phase for phase in Phase if phase is Phase.FORWARD or cost.training]
    return {
        "recipe": cost.recipe.name,
        "path": cost.path.value,
        "flops": cost.flops,
        **{phase.value: _span_dict(cost.span(phase)) for phase in phases},
        "passes": _span_dict(row.passes),
        "predicted_speedup": row.speedup,
        "predicted_parts_us": {part.value: span.time_us for part, span in cost.parts.items()},
        "predicted_memory_bytes": _memory_dict(cost.memory),
        "predicted_memory_ratio": row.memory_ratio,
        "predicted_step_memory_ratio": row.step_memory_ratio,
        "operators_of_a_layer": [
            {
                "operator": one.operator.name,
                "part": one.operator.part.value,
                "phase": one.operator.phase.value,
                "work": str(one.operator.work),
                "kernel": one.kernel,
                **_span_dict(one.span),
            }
            for one in cost.operators
        ],
    }


def predict_network(
    *,
    gpu: str | Path | Gpu = "h200",
    model: str | Path,
    sequence: int,
    batch: int = 1,
    training: bool = False,
    recipes: Sequence[str] | str | None = None,
    calibration: str | Path | None = None,
) -> NetworkReport:
    """Predict time and memory of a transformer's layers; nothing is measured, no GPU is needed.

    Args:
        gpu: a name of ``workbench gpus``, the path of a GPU file, or a loaded GPU.
        model: a Hugging Face ``config.json`` of a type in
            :data:`workbench.network_models.NETWORK_TYPES`.
        sequence: tokens of a sequence, all of which go through the network together.
        batch: sequences.
        training: backward and the optimiser's step besides.
        recipes: names; ``None`` asks for all, and what cannot be told is among the refused.
        calibration: the path of a calibration file; ``"none"`` for none; ``None`` for the user's
            own of that GPU, where there is one.
    Raises:
        ValueError: unknown name, impossible model or batch, a calibration of another GPU.
        TypeError: an argument of another type.
    """
    target = gpu if isinstance(gpu, Gpu) else load_gpu(str(gpu))
    held = choose_calibration(calibration, target)
    wanted = list(RECIPES.values())
    if recipes is not None:
        wanted = [recipe(name) for name in items_of("recipes", recipes, str, "names")]
    tokens = Batch(sequences=count_of("batch", batch), length=count_of("sequence", sequence))
    network = read_network(path_of("model", model), tokens.length)
    pricer = Pricer(target, list(kernels().values()), held.calibration)
    # What no family serves is priced by the GPU's figures alone.
    figures = target if held.calibration is None else held.calibration.gpu

    def told(name: str) -> NetworkCost | str:
        return network_cost(
            network, tokens, recipe(name), figures, pricer.best, training=bool(training)
        )

    baseline = told(BASELINE)
    rows: list[NetworkRow] = []
    refused: list[RefusedRecipe] = []
    for one in wanted:
        cost = baseline if one.name == BASELINE else told(one.name)
        if isinstance(cost, str):
            refused.append(RefusedRecipe(recipe=one.name, reason=cost))
            continue
        whole = None if isinstance(baseline, str) else baseline
        rows.append(NetworkRow(cost=cost, baseline=whole))
    return NetworkReport(
        gpu=target.name,
        model=network.name,
        layers=network.layers,
        batch=tokens,
        training=bool(training),
        rows=tuple(rows),
        refused=tuple(refused),
        calibration=held.lines,
    )
