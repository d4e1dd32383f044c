"""Which layers a recipe knows, and what stands in their place; or why nothing does."""

from collections.abc import Callable

import torch
from torch import nn

from tiles.kernels.cuda.dataflow_blocks import drop_below
from workbench.nn import hugging_face
from workbench.nn.layers import QuantizedActivation, QuantizedDropout, QuantizedNorm
from workbench.nn.linear import QuantizedLinear
from workbench.nn.runtime import Runtime

__all__ = ["FEATURE_STEP", "GATES", "converted", "hooked"]

#: Rows of 8-bit codes begin at multiples of 16 bytes, which the kernels' loads need.
FEATURE_STEP = 16
#: Dtypes of numbers that the kernels and their twin quantise.
_QUANTISED = (torch.float32, torch.bfloat16, torch.float16)


def _linear(layer: nn.Module, run: Runtime) -> nn.Module | str:
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        return "its weight is computed from others, as by weight_norm: remove that first"
    if weight.dtype not in _QUANTISED:
        return f"its weight is {weight.dtype}: codes are made of bf16, fp16 and fp32"
    extents = weight.shape if hugging_face.is_conv1d(layer) else weight.shape[::-1]
    if run.recipe.activation.scaling is not None:
        for what, extent in zip(("in", "out"), extents, strict=True):
            if extent % FEATURE_STEP:
                return f"{extent} features {what}: rows of codes need multiples of {FEATURE_STEP}"
    if isinstance(layer, nn.Linear):
        return QuantizedLinear.of(layer, run)
    return hugging_face.QuantizedConv1D.of(layer, run)


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


def _of_width(made: nn.Module) -> nn.Module | str:
    """A foreign layer's successor, if codes have rows of its width."""
    if isinstance(made, QuantizedNorm) and (reason := _norm_refusal((made.width,))):
        return reason
    return made


def _norm_refusal(shape: tuple[int, ...]) -> str | None:
    if len(shape) != 1:
        return f"normalised over {shape}: norms of codes take the last dimension"
    if shape[0] % FEATURE_STEP:
        return f"{shape[0]} features: rows of codes need multiples of {FEATURE_STEP}"
    return None


_Rule = Callable[[nn.Module, Runtime], "nn.Module | str"]
_BETWEEN: dict[type[nn.Module], _Rule] = {
    nn.GELU: _gelu,
    nn.SiLU: lambda _, run: QuantizedActivation("silu", run),
    nn.ReLU: lambda _, run: QuantizedActivation("relu", run),
    nn.Dropout: _dropout,
    nn.LayerNorm: _layernorm,
    nn.RMSNorm: _rmsnorm,
}


#: Activations of torch in gated parts.
GATES = {f"{cls.__module__}.{cls.__qualname__}": op for cls, op in ((nn.SiLU, "silu"),)}
_HOOKS = "it has hooks: remove them, convert, and register them again"


def hooked(layer: nn.Module) -> bool:
    """True with hooks or a ``forward`` of its own, which a layer in its place would not call."""
    own = vars(layer).get("forward")  # as accelerate hooks layers; transformers puts theirs back
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or (own is not None and getattr(own, "__func__", None) is not type(layer).forward)
    )


def converted(layer: nn.Module, run: Runtime) -> nn.Module | str:
    """The quantised layer, or why there is none.  A subclass may compute something else."""
    kind = type(layer)
    if kind is nn.Linear or hugging_face.is_conv1d(layer):
        if hooked(layer) and isinstance(layer.weight, nn.Parameter):
            return _HOOKS
        return _linear(layer, run)
    foreign = None if kind in _BETWEEN else hugging_face.between(layer)
    if kind not in _BETWEEN and foreign is None:
        reason = f"{run.recipe.name} has no such operator"
        if run.dataflow and getattr(layer, "inplace", False) is True:
            reason += "; it writes to its input, which codes refuse: set inplace to False"
        return reason
    if not run.dataflow:
        return f"{run.recipe.name} quantises products alone"
    if isinstance(foreign, str):
        return foreign
    if hooked(layer):
        return _HOOKS
    if foreign is not None:
        return _of_width(foreign(run))
    return _BETWEEN[kind](layer, run)
