"""Layers of Hugging Face's transformers that a recipe knows, without importing the package.

A class is known by its qualified name.  Norms and gated feed-forward parts are written anew for
every architecture there, some with other arithmetic under the same names (weights around zero):
they are known by their parts, and by what they compute for a few numbers.
"""

from collections.abc import Callable

import torch
from torch import nn

from workbench.nn import operators
from workbench.nn.compiled import outside_graphs
from workbench.nn.layers import QuantizedActivation, QuantizedNorm
from workbench.nn.linear import QuantizedLinear
from workbench.nn.runtime import Runtime

__all__ = ["QuantizedConv1D", "QuantizedGatedPart", "between", "gated_part", "is_conv1d"]

_PACKAGE = "transformers."
_CONV1D = f"{_PACKAGE}pytorch_utils.Conv1D"
_ACTIVATIONS = {
    f"{_PACKAGE}activations.GELUActivation": "gelu",
    f"{_PACKAGE}activations.SiLUActivation": "silu",
}
_TANH = tuple(
    f"{_PACKAGE}activations.{name}"
    for name in ("NewGELUActivation", "GELUTanh", "FastGELUActivation")
)
_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
#: Relative distance of two computations of one thing, in units of the dtype's epsilon.
_ALIKE = 16


def _name(layer: nn.Module) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


class QuantizedConv1D(QuantizedLinear):
    """``transformers.pytorch_utils.Conv1D``: a linear layer whose weight is stored as (K, N)."""

    @classmethod
    def of(cls, linear: nn.Module, runtime: Runtime) -> "QuantizedConv1D":
        """The quantised layer with a layer's own parameters."""
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, nn.Parameter)
        assert isinstance(bias, nn.Parameter)
        return cls(weight, bias, runtime)

    @property
    def matrix(self) -> torch.Tensor:
        """(N, K), the weight as the product reads it."""
        return self.weight.t()

    @property
    def nx(self) -> int:
        """K, as ``Conv1D`` has it."""
        return self.in_features

    @property
    def nf(self) -> int:
        """N, as ``Conv1D`` has it."""
        return self.out_features


class QuantizedGatedPart(nn.Module):
    """``down_proj(act_fn(gate_proj(x)) x up_proj(x))``, codes throughout."""

    def __init__(self, part: nn.Module, op: str, runtime: Runtime) -> None:
        """Take the layers of a gated part, which are converted already, under their names."""
        super().__init__()
        for name, child in part.named_children():
            self.add_module(name, child)
        self.op = op
        self.runtime = runtime

    @outside_graphs
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) to the same."""
        gate, up = self.get_submodule("gate_proj"), self.get_submodule("up_proj")
        hidden = operators.gated(gate(x), up(x), self.op, self.runtime)
        y: torch.Tensor = self.get_submodule("down_proj")(hidden)
        return y

    def extra_repr(self) -> str:
        return f"{self.op}, recipe={self.runtime.recipe.name}"


def is_conv1d(layer: nn.Module) -> bool:
    """True for GPT-2's linear layer."""
    return _name(layer) == _CONV1D


def between(layer: nn.Module) -> Callable[[Runtime], nn.Module] | str | None:
    """What makes the operator on codes, why there is none, or nothing for an unknown class."""
    name = _name(layer)
    if name in _ACTIVATIONS:
        op = _ACTIVATIONS[name]
        return lambda run: QuantizedActivation(op, run)
    if name in _TANH:
        return "GELU approximated by tanh: the operator here is the exact one"
    if name.startswith(_PACKAGE) and (epsilon := _rms_epsilon(layer)) is not None:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        return lambda run: QuantizedNorm("rmsnorm", weight.shape[0], weight, None, epsilon, run)
    return None


def _rms_epsilon(layer: nn.Module) -> float | None:
    """The epsilon of a root-mean-square norm with a weight, if the layer is one."""
    epsilon, weight = getattr(layer, "variance_epsilon", None), getattr(layer, "weight", None)
    named = [name for name, _ in layer.named_parameters()]
    if not isinstance(epsilon, float) or named != ["weight"] or weight is None or weight.ndim != 1:
        return None
    if weight.is_meta:
        return None
    x = _numbers(weight, weight.shape[0])
    exact = nn.functional.rms_norm(x.float(), (weight.shape[0],), weight.float(), epsilon)
    return epsilon if _alike(layer, x, exact) else None


def gated_part(layer: nn.Module, ops: dict[str, str]) -> str | None:
    """The activation of a gated feed-forward part, if the layer is one.

    Args:
        layer: not converted yet.
        ops: name of the operator by the qualified name of an activation, beside those known here.
    """
    if not _name(layer).startswith(_PACKAGE) or {n for n, _ in layer.named_children()} != _PARTS:
        return None
    act = layer.get_submodule("act_fn")
    op = {**_ACTIVATIONS, **ops}.get(_name(act))
    gate, up, down = (layer.get_submodule(f"{part}_proj") for part in ("gate", "up", "down"))
    linear = all(type(part) is nn.Linear for part in (gate, up, down))
    if op is None or not linear or next(layer.parameters(recurse=False), None) is not None:
        return None
    weight = gate.weight
    assert isinstance(weight, torch.Tensor)
    if weight.is_meta:
        return None
    x = _numbers(weight, weight.shape[1])
    with torch.no_grad():
        exact = down(act(gate(x)) * up(x)).float()
    return op if _alike(layer, x, exact) else None


def _numbers(like: torch.Tensor, width: int) -> torch.Tensor:
    """(2, width) of both signs and several sizes."""
    values = torch.arange(2 * width, dtype=torch.float64, device=like.device).mul(0.7).sin() * 2
    return values.view(2, width).to(like.dtype)


def _alike(layer: nn.Module, x: torch.Tensor, exact: torch.Tensor) -> bool:
    with torch.no_grad():
        found = layer(x)
    if not isinstance(found, torch.Tensor) or found.shape != exact.shape:
        return False
    error = (found.float() - exact).norm() / exact.norm()
    return bool(error < _ALIKE * torch.finfo(x.dtype).eps)
