"""Linear layers of a model replaced by quantised ones, and put back."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from . import _lookup
from ._checkpoint import Checkpoint
from ._linear_layers import KEPT, Layer, check_keep, kept, layers, obstacle
from ._linear_recipes import (
    QUANTIZE,
    LinearRecipe,
    check_digests,
    choose_recipe,
    gpus_of,
    is_home,
    linear_recipes,
    quantizes_tuned,
    tuned_for,
)
from ._meta_tensors import MetaTensors, check_layers, stored_name
from ._patch_report import Left, PatchReport, Replaced
from ._quantized_linear import PatchedLinear, QuantizedLinear, WeightOnlyLinear
from ._torch_device import NAMES, device_facts
from ._weight_codes import quantize_weight

#: What runs where the package was not tuned, by ``untuned``.
_INSTEAD = {
    "default": "running a conservative default, whose speed is unknown",
    "plain": "the plain layer runs",
}


def patch(
    model: nn.Module,
    recipe: str | None = None,
    *,
    weights: str | Path | None = None,
    keep: Sequence[str] = KEPT,
    untuned: str = "default",
    undo: bool = True,
    device: torch.device | str | None = None,
) -> PatchReport:
    """Replace the linear layers of a model by quantised ones, in place; for inference.

    ``nn.Linear`` is replaced wherever it stands, and so are the ``Conv1D`` layers of transformers.
    Weights are quantised once, activations on each call.  Nothing is changed where this raises.

    A layer is left as it is, with the reason in the report: what ``keep`` names; a subclass of
    ``nn.Linear``; weights shared with another module, or read by one; hooks; an element type, a
    length of sums or a GPU that no kernel of the package serves.

    Args:
        model: layers on a GPU, on the host (move the model afterwards), or, with ``weights``, on
            the meta device.
        recipe: one of the package, e.g. ``"deepseek-fp8"``; default: the one with the fastest
            entries, see the report's ``chosen``.
        weights: a safetensors file, an index of several or their folder, with the model's names:
            layers are converted from it one by one, and what else lies on the meta device is read.
        keep: layers to leave, by name or shell pattern; one of a module's own name or of its path
            (``"lm_head"``, ``"model.layers.0"``, ``"*.down_proj"``), with all that is below.
        untuned: layers of extents, or on a GPU, that the package was not tuned for: "default"
            replaces them, by conservative configurations of unknown speed; "plain" leaves them.
            Either is said in one warning for each kind of layer.
        undo: keep the original layers on the host for :func:`unpatch`; False lets go of them.
        device: where layers of the meta device go; default: the GPU at hand, else the host.
    Returns:
        What was replaced and what was not; printable, and JSON-ready by ``to_dict``.
    Raises:
        ValueError: no such recipe, no layer to replace, a name in ``keep`` that no module has, a
            checkpoint that does not fit, or a package whose files were edited.
    """
    check_digests()
    if untuned not in _INSTEAD:
        raise ValueError(f'untuned {untuned!r}: choose "default" or "plain"')
    chosen, why = _recipe(recipe)
    checkpoint = None if weights is None else Checkpoint(weights)
    check_keep(model, keep)
    left: dict[str, str] = {}
    todo: list[Layer] = []
    said: list[tuple[Layer, str]] = []
    for layer in layers(model):
        reason = kept(layer, keep) or obstacle(model, layer, chosen, weights is not None, device)
        lacks = "" if reason else _untuned(layer, chosen, device)
        if lacks:
            said.append((layer, lacks))
            reason = lacks if untuned == "plain" else ""
        if reason:
            left |= dict.fromkeys(layer.names, reason)
        else:
            todo.append(layer)
    if not todo:
        raise ValueError(_nothing(model, left))
    meta = None
    if checkpoint is not None:
        check_layers(todo, checkpoint)
        meta = MetaTensors(model, todo, checkpoint, device)
    # Before anything is changed: where warnings are errors, nothing is.
    for layer, lacks in said:
        _say(layer, chosen, f"{lacks}: {_INSTEAD[untuned]}")
    if untuned == "default":
        _said([layer for layer, _ in said], chosen, device)
    bytes_before = sum(layer.weight.numel() * layer.weight.element_size() for layer in todo)
    made = _swap(todo, chosen, checkpoint, meta, undo, device)
    poor = {id(layer) for layer, _ in said}
    return PatchReport(
        recipe=chosen.name,
        chosen=why,
        replaced=tuple(
            Replaced(name, *layer.extents, tuned=id(layer) not in poor)
            for layer in todo
            for name in layer.names
        ),
        left=tuple(Left(name, reason) for name, reason in left.items()),
        bytes_before=bytes_before,
        bytes_after=sum(map(_bytes_of, made)),
    )


def unpatch(model: nn.Module) -> tuple[str, ...]:
    """Put the original layers back, on the device that the quantised ones are on.

    Returns:
        Their names.
    Raises:
        ValueError: no layer is patched, or an original is not there any more.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, PatchedLinear)
    ]
    if not places:
        raise ValueError("no layer of the model is patched: nothing to put back")
    for _, name, child in places:
        if not child.original:
            raise ValueError(
                f"{name}: the plain layer was not kept (patched with undo=False or from the meta "
                "device): build the model again"
            )
    names = tuple(n for n, child in model.named_modules() if isinstance(child, PatchedLinear))
    for parent, name, child in places:
        (original,) = child.original
        parent._modules[name] = original.to(next(child.buffers()).device)
    return names


def _recipe(name: str | None) -> tuple[LinearRecipe, str]:
    known, refused = linear_recipes()
    if not known:
        reasons = "; ".join(f"{one}: {why}" for one, why in sorted(refused.items()))
        raise ValueError(f"no recipe of this package can patch a layer: {reasons}")
    if name is None:
        best, why = choose_recipe(known)
        return known[best], why
    if name not in known:
        why = refused.get(name, "the package has no entry for it")
        raise ValueError(f"recipe {name!r}: {why}; there is {', '.join(sorted(known))}")
    return known[name], f"{name} as asked"


def _untuned(layer: Layer, recipe: LinearRecipe, device: torch.device | str | None) -> str:
    """What the package was not tuned for of a layer; "" when it was."""
    home, (n, k) = layer.home(device), layer.extents
    if home.type == "cuda":
        name = device_facts(home)[0]
        if not is_home(recipe, name):
            return f"{name} is not a GPU this package was tuned for ({', '.join(gpus_of(recipe))})"
    if not tuned_for(recipe, layer.weight.dtype, (n, k)):
        return f"{recipe.name} was never tuned for layers of {k} -> {n}"
    if not quantizes_tuned(recipe, layer.weight.dtype, k):
        return f"quantising {k} columns to {recipe.activation} was never tuned"
    return ""


def _say(layer: Layer, recipe: LinearRecipe, message: str) -> None:
    """Say it once for each kind of layer."""
    kind = type(layer.module).__name__
    _lookup._warn_once(("patch", recipe.name, kind, *layer.extents, message), f"{kind}: {message}")


def _said(told: Sequence[Layer], recipe: LinearRecipe, device: torch.device | str | None) -> None:
    """Launches of these layers need not say it again; those of other extents still do."""
    for layer in told:
        home = layer.home(device)
        if home.type == "cuda" and not is_home(recipe, name := device_facts(home)[0]):
            _lookup._warned.add(_lookup.strange_gpu_key(name))
        dtype = NAMES[layer.weight.dtype]
        for key in (
            _lookup.untuned_key(recipe.kernel, (recipe.name, dtype), layer.extents),
            _lookup.untuned_key(QUANTIZE, (recipe.activation, dtype), layer.extents[1:]),
        ):
            _lookup._warned.add(key)


def _nothing(model: nn.Module, left: dict[str, str]) -> str:
    patched = sum(isinstance(one, PatchedLinear) for one in model.modules())
    if patched:
        return f"no layer to replace, {patched} are patched already: unpatch the model first"
    if isinstance(model, nn.Linear):
        return "the model is a linear layer itself: wrap it, nn.Sequential(layer)"
    if not left:
        return f"{type(model).__name__} has no linear layer: nothing to replace"
    name, reason = next(iter(left.items()))
    return f"none of {len(left)} linear layers can be replaced, {name}: {reason}"


def _convert(
    layer: Layer,
    recipe: LinearRecipe,
    checkpoint: Checkpoint | None,
    device: torch.device | str | None,
) -> PatchedLinear:
    """The quantised layer, where the plain one is."""
    weight, bias = layer.weight.detach(), layer.bias
    if checkpoint is not None:
        name, home = stored_name(layer, checkpoint), layer.home(device)
        weight = checkpoint.read(f"{name}.weight").to(home, weight.dtype)
        if bias is not None:
            bias = checkpoint.read(f"{name}.bias").to(home, bias.dtype)
    if layer.transposed:
        weight = weight.t()
    codes, scales = quantize_weight(weight, recipe.element, recipe.block, recipe.stored)
    if recipe.weight_only:
        from ._packed_weight import pack_weight  # ships with such recipes only

        packed = pack_weight(codes, scales, recipe=recipe.name, columns=weight.shape[1])
        return WeightOnlyLinear(recipe.name, packed, bias)
    return QuantizedLinear(recipe.name, recipe.activation, codes, scales, bias)


def _swap(
    todo: Sequence[Layer],
    recipe: LinearRecipe,
    checkpoint: Checkpoint | None,
    meta: MetaTensors | None,
    undo: bool,
    device: torch.device | str | None,
) -> list[PatchedLinear]:
    """Replace layer after layer; where one fails, all that was done is undone."""
    done: list[tuple[Layer, torch.device]] = []
    made: list[PatchedLinear] = []
    try:
        if meta is not None:
            meta.read()
        for layer in todo:
            new = _convert(layer, recipe, checkpoint, device)
            new.train(layer.module.training)
            was = layer.weight.device
            done.append((layer, was))
            if was.type != "meta":
                new.original = (layer.module.to("cpu"),)
            layer.put(new)
            made.append(new)
    except BaseException:
        for layer, was in done:
            layer.put(layer.module.to(was))
        if meta is not None:
            meta.put_back()
        raise
    if not undo:
        for new in made:
            new.original = ()
    return made


def _bytes_of(layer: PatchedLinear) -> int:
    """Of codes and scales."""
    held = [one for name, one in layer.named_buffers() if name != "bias"]
    return sum(one.numel() * one.element_size() for one in held)
