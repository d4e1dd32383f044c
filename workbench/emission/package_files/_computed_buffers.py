"""Buffers that a model computes when it is made, and no checkpoint has: a rotation's frequencies.

On the meta device they have no values.  A model of transformers computes them again by the method
with which that library itself fills what checkpoints lack; of other models nothing is known.
"""

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_computed(module: nn.Module, name: str) -> bool:
    """Whether it is a buffer that no state has."""
    return name in module._buffers and name in module._non_persistent_buffers_set


def computed(model: nn.Module, path: str, name: str) -> Tensor:
    """A buffer of the model on the host, in the model's dtype; the model stays as it is.

    Args:
        model: that has it.
        path: of the module that holds it; "" for the model.
        name: of the buffer there.
    Raises:
        ValueError: nothing computes it.
    """
    module = model.get_submodule(path)
    plain = module._buffers[name]
    assert plain is not None
    owner = _owner(model, path)
    if owner is not None:
        twin = _twin(module)
        fresh = twin._buffers[name]
        assert fresh is not None
        with torch.no_grad():
            owner._init_weights(twin)
        if _filled(fresh):
            return fresh.to(plain.dtype)
    raise ValueError(
        f"{path}.{name}: no checkpoint has it, and {type(module).__name__} on the meta device has "
        "no values of it: put a tensor in its place first, or make the model with its buffers on "
        "the host (accelerate's init_empty_weights does)"
    )


def _owner(model: nn.Module, path: str) -> Any:
    """The innermost model of transformers around a module, if any."""
    library: Any = sys.modules.get("transformers.modeling_utils")
    parts = path.split(".") if path else []
    for end in range(len(parts), -1, -1):
        around = model.get_submodule(".".join(parts[:end]))
        if library is not None and isinstance(around, library.PreTrainedModel):
            return around
    return None


def _twin(module: nn.Module) -> nn.Module:
    """A copy on the meta device, its own computed buffers on the host with values nobody has."""
    held = [*module.parameters(), *module.buffers()]
    memo: dict[int, Any] = {}
    for one in held:
        empty = torch.empty_like(one, device="meta")
        memo[id(one)] = nn.Parameter(empty, False) if isinstance(one, nn.Parameter) else empty
    twin = copy.deepcopy(module, memo)
    for name, buffer in twin._buffers.items():
        if buffer is not None and is_computed(twin, name):
            # Whole: frequencies are computed in fp32, whatever the model's dtype makes of them.
            dtype = torch.float32 if buffer.is_floating_point() else buffer.dtype
            here = torch.empty(buffer.shape, dtype=dtype, device="cpu")
            _spoil(here)
            twin._buffers[name] = here
    return twin


def _spoil(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        tensor.fill_(torch.nan)
    elif tensor.dtype is not torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).min)


def _filled(tensor: Tensor) -> bool:
    """Whether every value was set since it was spoilt; of truth values nobody can tell."""
    if tensor.is_floating_point():
        return not bool(tensor.isnan().any())
    return tensor.dtype is not torch.bool and bool((tensor != torch.iinfo(tensor.dtype).min).all())
