"""Checkpoints of training: parameters, which any recipe takes, random bits and scales."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tiles.intake import shown
from workbench.nn.linear import QuantizedLinear
from workbench.nn.runtime import Runtime
from workbench.nn.seeds import SeedStream
from workbench.nn.tensor_scales import LayerScales

__all__ = ["SCHEMA", "load_training_state", "runtime_of", "training_state"]

SCHEMA = "tile-workbench/training-state/2"
_KEYS = {"schema", "recipe", "fallback", "seed", "count", "generator", "scales", "model"}


def runtime_of(model: nn.Module) -> Runtime:
    """The runtime that the layers of a model share.

    Raises:
        ValueError: no layer is quantised, or they have several.
    """
    found = {
        id(run): run
        for layer in model.modules()
        if isinstance(run := getattr(layer, "runtime", None), Runtime)
    }
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has layers of {len(found)} runtimes: convert it as a whole"
        )
    return next(iter(found.values()))


def training_state(model: nn.Module) -> dict[str, Any]:
    """What training goes on from, to the bit, beside the optimiser's own state.

    ``["model"]`` is an ordinary state_dict in high precision, good for the unconverted model too.

    Raises:
        ValueError: the model is not converted.
    """
    run = runtime_of(model)
    return {
        "schema": SCHEMA,
        "recipe": run.recipe.name,
        "fallback": run.share,
        "seed": run.seeds.seed,
        "count": run.seeds.count,
        "generator": torch.get_rng_state(),  # of the CPU, which keys of dropout come from
        "scales": {name: scales.state() for name, scales in _scales(model).items()},
        "model": model.state_dict(),
    }


def load_training_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Go on from a state of the same recipe; nothing is changed where it is refused.

    Torch's generator of the CPU goes on from where it stood, too.

    Raises:
        ValueError: no such state, one of another recipe, or parameters that do not fit.
    """
    run = runtime_of(model)
    if not isinstance(state, Mapping) or state.get("schema") != SCHEMA or set(state) != _KEYS:
        raise ValueError(
            f"not a state of {SCHEMA}: an ordinary state_dict goes to model.load_state_dict"
        )
    own = (run.recipe.name, run.share)
    if (state["recipe"], state["fallback"]) != own:
        raise ValueError(
            f"the checkpoint is of recipe {state['recipe']}, fallback {state['fallback']:g}, the "
            f"model of {own[0]}, fallback {own[1]:g}: convert to that, or give its ['model'] "
            "alone to model.load_state_dict"
        )
    here, there = model.state_dict(), state["model"]
    wrong = sorted(here.keys() ^ there.keys())
    wrong += [n for n in here if n in there and here[n].shape != there[n].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} and {len(wrong) - 1} more do not fit the model")
    layers, kept = _scales(model), state["scales"]
    for name in sorted(layers.keys() | kept.keys()):
        if name not in layers or name not in kept:
            raise ValueError(f"scales of {name} do not fit the model")
        if reason := layers[name].refusal(kept[name]):
            raise ValueError(f"scales of {name}: {reason}")
    if not all(type(state[name]) is int for name in ("seed", "count")):
        raise ValueError(
            f"seed {shown(state['seed'])}, count {shown(state['count'])}: both are integers in a "
            f"state of {SCHEMA}"
        )
    seeds = SeedStream(state["seed"], state["count"])
    model.load_state_dict(there)
    torch.set_rng_state(state["generator"].cpu())  # wherever a checkpoint was mapped to
    run.seeds = seeds
    for name, scales in layers.items():
        scales.load(kept[name])


def _scales(model: nn.Module) -> dict[str, LayerScales]:
    """Scales of layers that do not come from each tensor itself, by the layers' names."""
    return {
        name: layer.scales
        for name, layer in model.named_modules()
        if isinstance(layer, QuantizedLinear) and layer.scales is not None
    }
