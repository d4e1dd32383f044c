"""Puts quantised layers into a model, and the original ones back where they are kept."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from workbench.nn.layer_rules import hooked
from workbench.ptq.formats import refusal
from workbench.ptq.interceptor import REPLACED
from workbench.ptq.kernel_path import KernelPath
from workbench.ptq.layers import QuantizedConv, QuantizedEmbedding, QuantizedLayer
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.operator import Session

__all__ = ["check_keep", "kept_by_name", "quantized_layers", "replace_layers", "restore"]

#: Layers whose function is met where it is called.
_INTERCEPTED = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
#: Layers without arithmetic in inference.
_IDLE = (
    *(nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten, nn.Unflatten),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict),
)


def replace_layers(
    model: nn.Module, session: Session, keep: tuple[str, ...], path: KernelPath
) -> nn.Module:
    """Replace what the scheme has layers for, in place; the rest is listed in the session.

    Returns:
        The model, or what stands for it where it is itself such a layer.
    Raises:
        ValueError: a weight is not finite.
    """
    made: dict[nn.Module, QuantizedLayer] = {}
    for name, layer in list(model.named_modules()):
        kind = REPLACED.get(type(layer))
        if kind is None:
            _list(name, layer, session)
            continue
        reason = kept_by_name(name, keep) or _unfit(layer)
        reason = reason or refusal(kind, session.recipe, session.scheme.kinds, str(session.scheme))
        if reason:
            session.unknown[name] = reason
            continue
        made[layer] = _quantized(name, layer, session, path)
    _note_shared(made)
    if model in made:
        return made[model]
    _swap(model, made)
    return model


def check_keep(keep: tuple[str, ...], names: "list[str]") -> None:
    """Refuse patterns that match no operator.

    Raises:
        ValueError: one of them does not; the message names it.
    """
    from tiles.intake import nearest

    for pattern in keep:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        inside = [name for name in names if fnmatchcase(name, f"{pattern}[.:]*")]
        hint = f"write {pattern}[.:]* for what it holds, as {inside[0]}" if inside else ""
        raise ValueError(
            f"keep {pattern!r}: no layer or operator of the model has such a name: "
            f"{nearest(pattern, names) if not inside else ''}"
            f"{hint or 'name one of the table, or a pattern such as encoder.0.*'}"
        )


def kept_by_name(name: str, keep: tuple[str, ...]) -> str:
    """A reason where a pattern asks for an operator to be kept; empty where none does."""
    return "asked for" if any(fnmatchcase(name, pattern) for pattern in keep) else ""


def _unfit(layer: nn.Module) -> str:
    if not isinstance(layer.weight, nn.Parameter):
        return "its weight is computed from others, as by weight_norm: remove that first"
    if not layer.weight.numel():
        return "its weight is empty"
    if hooked(layer):
        return "it has hooks: remove them, quantise, and register them again"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
        return "its entries are scaled on every call (max_norm)"
    return ""


def _list(name: str, layer: nn.Module, session: Session) -> None:
    """Note a layer of a kind that no recipe has."""
    if next(layer.children(), None) is not None or isinstance(layer, (*_INTERCEPTED, *_IDLE)):
        return
    # Functions that other modules call are met where they are called.
    if type(layer).__module__.startswith("torch.nn"):
        reason = f"{session.recipe.name} has no such operator"
        session.unknown[name] = f"{type(layer).__name__}: {reason}"


def _quantized(name: str, layer: nn.Module, session: Session, path: KernelPath) -> QuantizedLayer:
    fmt = session.recipe.weight
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(name, layer, session, fmt, path)
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return QuantizedConv(name, layer, session, fmt)
    assert isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    return QuantizedEmbedding(name, layer, session, fmt)


def _note_shared(made: dict[nn.Module, QuantizedLayer]) -> None:
    """Say which layers were given one parameter for a weight: each has codes of its own here."""
    by_weight: dict[int, list[QuantizedLayer]] = {}
    for layer, standing in made.items():
        by_weight.setdefault(id(layer.weight), []).append(standing)
    for standing in made.values():
        for other in by_weight[id(standing.original.weight)]:
            if other is not standing:
                note = f"its weight is also that of {other.operator.name}"
                standing.operator.notes.append(note)


def _swap(model: nn.Module, made: Mapping[nn.Module, nn.Module]) -> None:
    for parent in list(model.modules()):
        # Not named_children(), which leaves out the second place of a shared layer.
        for name, child in list(parent._modules.items()):
            if child is not None and child in made:
                setattr(parent, name, made[child])


def quantized_layers(model: nn.Module) -> list[QuantizedLayer]:
    """The quantised layers of a model, each once."""
    return [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]


def restore(model: nn.Module) -> nn.Module:
    """Put the originals of kept layers back, and let the others forget theirs.

    Returns:
        The model, or its original where it is itself a kept layer.
    """
    back: dict[nn.Module, nn.Module] = {}
    for layer in quantized_layers(model):
        if layer.operator.kept:
            back[layer] = layer.original
        else:
            layer.finish()
    if model in back:
        return back[model]
    _swap(model, back)
    return model
