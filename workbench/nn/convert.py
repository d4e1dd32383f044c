"""Replaces the layers of an ordinary torch model by quantised ones that share its parameters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from tiles.kernels.cuda.dataflow_blocks import drop_below
from tiles.recipes import Recipe
from workbench.nn.backend import Backend
from workbench.nn.layers import QuantizedActivation, QuantizedDropout, QuantizedNorm
from workbench.nn.linear import QuantizedLinear
from workbench.nn.runtime import Runtime
from workbench.nn.training_recipes import training_runtime

__all__ = ["Conversion", "Kept", "Replaced", "convert", "convert_with"]

#: Rows of 8-bit codes begin at multiples of 16 bytes, which the kernels' loads need.
FEATURE_STEP = 16
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
        lines = [f"{len(self.replaced)} layers follow {self.runtime.recipe.name}"]
        lines += [f"kept in high precision: {k.name} ({k.kind}): {k.reason}" for k in self.kept]
        return "\n".join(lines)


def convert(
    model: nn.Module,
    recipe: str | Recipe | Runtime,
    *,
    keep: tuple[str, ...] = (),
    fallback: float | None = None,
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
        if (fallback, seed, backend) != (None, 0, None):
            raise ValueError("a runtime has a fallback, a seed and a backend: leave them out")
        return convert_with(model, recipe, keep=keep)
    run = training_runtime(recipe, fallback=fallback, seed=seed, backend=backend)
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
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for _, layer in leaves for name in names[layer]):
            raise ValueError(f"keep {pattern!r}: no layer of the model has such a name")
    replaced, kept, made = [], [], {}
    for name, layer in leaves:
        kind = type(layer).__name__
        outcome: nn.Module | str
        if any(fnmatchcase(known, pattern) for known in names[layer] for pattern in keep):
            outcome = "asked for"
        else:
            outcome = _converted(layer, run)
        if isinstance(outcome, str):
            kept.append(Kept(name=name, kind=kind, reason=outcome))
            continue
        outcome.train(layer.training)
        made[layer] = outcome
        replaced.append(Replaced(name=name, before=kind, after=type(outcome).__name__))
    if not replaced:
        raise ValueError(
            f"no layer of {type(model).__name__} can follow {run.recipe.name}: "
            + "; ".join(f"{k.name} ({k.kind}): {k.reason}" for k in kept)
        )
    return Conversion(
        model=_replace(model, made), runtime=run, replaced=tuple(replaced), kept=tuple(kept)
    )


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers without layers inside or with parameters of their own, by name; the model's is ""."""
    for name, layer in model.named_modules():
        if isinstance(layer, _QUANTIZED):
            continue  # of blocks that share the runtime
        leaf = next(layer.children(), None) is None and not isinstance(layer, nn.Identity)
        if leaf or next(layer.parameters(recurse=False), None) is not None:
            yield name, layer


def _replace(model: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    if model in made:
        return made[model]
    for parent in list(model.modules()):
        # Not named_children(), which leaves out the second place of a shared layer.
        for name, child in list(parent._modules.items()):
            if child in made:
                setattr(parent, name, made[child])
                if isinstance(parent, nn.TransformerEncoderLayer):
                    # Its fused inference would read the parameters past the layers.
                    parent.activation_relu_or_gelu = 0
    return model


def _linear(layer: nn.Module, run: Runtime) -> nn.Module | str:
    assert isinstance(layer, nn.Linear)
    if not isinstance(layer.weight, nn.Parameter):
        return "its weight is computed from others, as by weight_norm: remove that first"
    if run.recipe.activation.scaling is not None:
        for what, extent in (("in", layer.in_features), ("out", layer.out_features)):
            if extent % FEATURE_STEP:
                return f"{extent} features {what}: rows of codes need multiples of {FEATURE_STEP}"
    return QuantizedLinear.of(layer, run)


def _gelu(layer: nn.Module, run: Runtime) -> nn.Module | str:
    assert isinstance(layer, nn.GELU)
    if layer.approximate != "none":
        return f"GELU approximated by {layer.approximate}: the operator here is the exact one"
    return QuantizedActivation("gelu", run)


def _dropout(layer: nn.Module, run: Runtime) -> nn.Module | str:
    assert isinstance(layer, nn.Dropout)
    try:
        drop_below(layer.p)
    except ValueError as error:
        return str(error)
    return QuantizedDropout(layer.p, run)


def _layernorm(layer: nn.Module, run: Runtime) -> nn.Module | str:
    assert isinstance(layer, nn.LayerNorm)
    if reason := _norm_refusal(layer.normalized_shape):
        return reason
    width = layer.normalized_shape[0]
    return QuantizedNorm("layernorm", width, layer.weight, layer.bias, layer.eps, run)


def _rmsnorm(layer: nn.Module, run: Runtime) -> nn.Module | str:
    assert isinstance(layer, nn.RMSNorm)
    if reason := _norm_refusal(layer.normalized_shape):
        return reason
    epsilon = torch.finfo(torch.float32).eps if layer.eps is None else layer.eps
    return QuantizedNorm("rmsnorm", layer.normalized_shape[0], layer.weight, None, epsilon, run)


def _norm_refusal(shape: tuple[int, ...]) -> str | None:
    if len(shape) != 1:
        return f"normalised over {shape}: norms of codes take the last dimension"
    if shape[0] % FEATURE_STEP:
        return f"{shape[0]} features: rows of codes need multiples of {FEATURE_STEP}"
    return None


_Rule = Callable[[nn.Module, Runtime], "nn.Module | str"]
_PRODUCTS: dict[type[nn.Module], _Rule] = {nn.Linear: _linear}
_BETWEEN: dict[type[nn.Module], _Rule] = {
    nn.GELU: _gelu,
    nn.SiLU: lambda _, run: QuantizedActivation("silu", run),
    nn.ReLU: lambda _, run: QuantizedActivation("relu", run),
    nn.Dropout: _dropout,
    nn.LayerNorm: _layernorm,
    nn.RMSNorm: _rmsnorm,
}


_HOOKS = "it has hooks: remove them, convert, and register them again"


def _hooked(layer: nn.Module) -> bool:
    """True with hooks, which a layer in its place would not call."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def _converted(layer: nn.Module, run: Runtime) -> nn.Module | str:
    """The quantised layer, or why there is none.  A subclass may compute something else."""
    kind = type(layer)
    if kind in _PRODUCTS:
        if _hooked(layer) and isinstance(layer.weight, nn.Parameter):
            return _HOOKS
        return _PRODUCTS[kind](layer, run)
    if kind not in _BETWEEN:
        reason = f"{run.recipe.name} has no such operator"
        if run.dataflow and getattr(layer, "inplace", False) is True:
            reason += "; it writes to its input, which codes refuse: set inplace to False"
        return reason
    if not run.dataflow:
        return f"{run.recipe.name} quantises products alone"
    if _hooked(layer):
        return _HOOKS
    return _BETWEEN[kind](layer, run)
