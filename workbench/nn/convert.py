"""Replaces the layers of an ordinary torch model by quantised ones that share its parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from tiles.recipes import Recipe
from workbench.nn import hugging_face
from workbench.nn.backend import Backend
from workbench.nn.hugging_face import QuantizedGatedPart
from workbench.nn.layer_rules import GATES, converted, hooked
from workbench.nn.layers import QuantizedActivation, QuantizedDropout, QuantizedNorm
from workbench.nn.linear import QuantizedLinear
from workbench.nn.runtime import Runtime
from workbench.nn.training_recipes import emulated, training_runtime

__all__ = ["Conversion", "Kept", "Replaced", "convert", "convert_with"]

_QUANTIZED = (QuantizedLinear, QuantizedActivation, QuantizedDropout, QuantizedNorm)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A layer that computes on codes now."""

    name: str  #: in the model, as ``named_modules`` has it
    before: str  #: its class
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A layer that stays in high precision."""

    name: str
    kind: str  #: its class
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What :func:`convert` did."""

    model: nn.Module
    runtime: Runtime
    replaced: tuple[Replaced, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        recipe = self.runtime.recipe
        lines = [f"{len(self.replaced)} layers follow {recipe.name}"]
        if emulated(recipe):
            lines[0] += ", emulated: operands are quantised, products are of 16 bits"
        lines += [f"kept in high precision: {k.name} ({k.kind}): {k.reason}" for k in self.kept]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    recipe: str | Recipe | Runtime,
    *,
    keep: tuple[str, ...] = (),
    fallback: float | None = None,
    history: int | None = None,
    seed: int = 0,
    backend: Backend | None = None,
) -> Conversion:
    """Make the layers of a model follow a recipe, in place.

    Parameters stay the objects that they are, under the same names: optimisers and weight tying
    hold, and a ``state_dict`` of either model loads into the other.

    Args:
        model: an ordinary torch model.
        recipe: a name of ``RECIPES``, a ``Recipe``, or the runtime of blocks that the model has:
            layers that follow it already stay as they are.
        keep: patterns of layer names that stay in high precision, such as ``lm_head``.
        fallback: share of the INT8 blocks of a product's activations, those with the largest
            magnitudes, that keep 16 bits; default: the recipe's own, which is none for Jetfire.
        history: calls that delayed scaling looks back on; default 16.
        seed: of all stochastic rounding and dropout of codes.
        backend: computes for every device; default: kernels on CUDA devices, their twin elsewhere.
    Raises:
        ValueError: the recipe or the share does not fit, a pattern of ``keep`` matches
            nothing, the model is converted already, or nothing in it can be.
        TypeError: ``model`` is no module, or ``recipe`` neither a name nor a recipe.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch module, not {type(model).__name__}")
    if isinstance(recipe, Runtime):
        if (fallback, history, seed, backend) != (None, None, 0, None):
            raise ValueError("a runtime has a fallback, a seed and a backend: leave them out")
        return convert_with(model, recipe, keep=keep)
    run = training_runtime(recipe, fallback=fallback, history=history, seed=seed, backend=backend)
    return convert_with(model, run, keep=keep)


def convert_with(model: nn.Module, run: Runtime, *, keep: tuple[str, ...] = ()) -> Conversion:
    """As :func:`convert`, with a runtime that other layers share.

    Raises:
        ValueError: as :func:`convert`.
    """
    others = [layer for layer in model.modules() if isinstance(layer, _QUANTIZED)]
    if any(layer.runtime is not run for layer in others):
        raise ValueError("the model is converted already: convert a fresh one from its state_dict")
    leaves = list(_leaves(model))
    names: dict[nn.Module, list[str]] = {}  # of a shared layer all
    for name, layer in model.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    gates = _gated_parts(model, run)
    for pattern in keep:
        named = [*gates, *(layer for _, layer in leaves)]
        if not any(fnmatchcase(name, pattern) for layer in named for name in names[layer]):
            raise ValueError(f"keep {pattern!r}: no layer of the model has such a name")
    replaced, kept, made = [], [], {}
    for name, layer in leaves:
        kind = type(layer).__name__
        outcome: nn.Module | str
        if any(fnmatchcase(known, pattern) for known in names[layer] for pattern in keep):
            outcome = "asked for"
        else:
            outcome = converted(layer, run)
        if isinstance(outcome, str):
            kept.append(Kept(name=name, kind=kind, reason=outcome))
            continue
        outcome.train(layer.training)
        made[layer] = outcome
        replaced.append(Replaced(name=name, before=kind, after=type(outcome).__name__))
    gates = {
        part: op
        for part, op in gates.items()
        if all(child in made for child in part.children())
        and not any(fnmatchcase(name, pattern) for name in names[part] for pattern in keep)
    }
    if not replaced:
        raise ValueError(
            f"no layer of {type(model).__name__} can follow {run.recipe.name}: "
            + "; ".join(f"{k.name} ({k.kind}): {k.reason}" for k in kept)
        )
    changed = _replace(model, made)
    parts = {
        part: QuantizedGatedPart(part, op, run).train(part.training) for part, op in gates.items()
    }
    replaced += [
        Replaced(name=names[part][0], before=type(part).__name__, after=type(after).__name__)
        for part, after in parts.items()
    ]
    return Conversion(
        model=_replace(changed, parts), runtime=run, replaced=tuple(replaced), kept=tuple(kept)
    )


def _gated_parts(model: nn.Module, run: Runtime) -> dict[nn.Module, str]:
    """Gated feed-forward parts without hooks, by their activation."""
    if not run.dataflow:
        return {}
    found = {}
    for layer in model.modules():
        if not hooked(layer) and (op := hugging_face.gated_part(layer, GATES)):
            found[layer] = op
    return found


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers without layers inside or with parameters of their own, by name; the model's is ""."""
    for name, layer in model.named_modules():
        if isinstance(layer, _QUANTIZED):
            continue  # of blocks that share the runtime
        leaf = next(layer.children(), None) is None and not isinstance(layer, nn.Identity)
        if leaf or next(layer.parameters(recurse=False), None) is not None:
            yield name, layer


def _replace(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> nn.Module:
    if model in made:
        return made[model]
    for parent in list(model.modules()):
        # Not named_children(), which leaves out the second place of a shared layer.
        for name, child in list(parent._modules.items()):
            if child is not None and child in made:
                setattr(parent, name, made[child])
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fused inference would read the parameters past the layers.
                    parent.activation_relu_or_gelu = 0
    return model
