"""Functions of torch that are operators of a scheme: what each multiplies, adds or normalises.

Each handler gets the arguments of an intercepted call and computes it on an operator's terms.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.ptq.operator import Operator
from workbench.ptq.products import Convolution
from workbench.ptq.scheme import Kind
from workbench.ptq.weight_operand import WeightOperand

__all__ = ["ATTENTION", "CALLS", "IN_PLACE", "LISTED", "Call", "attention"]

Arguments = tuple[Any, ...]
Options = Mapping[str, Any]


class Call:
    """How one function is computed on rounded operands."""

    def __init__(
        self,
        kind: Kind,
        values: Callable[[Arguments, Options], "dict[str, torch.Tensor] | None"],
        rounded: Callable[[Operator, Arguments, Options], torch.Tensor],
        weight: Callable[[Arguments, Options], Any] = lambda arguments, options: None,
    ) -> None:
        """Describe a function.

        Args:
            kind: what a scheme calls it; products with a weight are ``Kind.LINEAR``.
            values: operands that are activations, by their role; ``None``: not an operator.
            rounded: the call on rounded operands.
            weight: the operand that is a weight, if one is.
        """
        self.kind, self.values, self.rounded, self.weight = kind, values, rounded, weight


def _given(arguments: Arguments, options: Options, *names: str) -> list[Any]:
    """Arguments by position or by name; ``None`` where there is none."""
    return [
        arguments[place] if place < len(arguments) else options.get(name)
        for place, name in enumerate(names)
    ]


def _is_float(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.ndim > 0


# Products of two matrices: torch.matmul, mm, bmm and @.


def _factors(arguments: Arguments, options: Options) -> list[Any]:
    left, right = _given(arguments, options, "input", "other")
    if right is None:
        right = options.get("mat2")
    return [left, right]


def _matmul_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    left, right = _factors(arguments, options)
    if not (_is_float(left) and _is_float(right)) or left.ndim < 2 or right.ndim < 2:
        return None
    if isinstance(right, nn.Parameter) and right.ndim == 2:
        return {"input": left}
    return {"left": left, "right": right}


def _matmul_weight(arguments: Arguments, options: Options) -> Any:
    right = _factors(arguments, options)[1]
    return right if isinstance(right, nn.Parameter) and right.ndim == 2 else None


def _matmul(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
    left, right = _factors(arguments, options)
    if operator.kind is Kind.LINEAR:
        weight = operator.weight
        assert isinstance(weight, WeightOperand)
        return operator.operands["input"].rounded(left) @ weight.rounded(right, turned=True)
    rounded = operator.operands["right"].rounded(right, along=-2, apart=True)
    return operator.operands["left"].rounded(left, apart=True) @ rounded


# torch.addmm: a bias, and a product whose right side is a weight as a rule.


def _addmm_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    return _matmul_values(tuple(_given(arguments, options, "input", "mat1", "mat2")[1:]), {})


def _addmm_weight(arguments: Arguments, options: Options) -> Any:
    return _matmul_weight(tuple(_given(arguments, options, "input", "mat1", "mat2")[1:]), {})


def _addmm(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
    bias, left, right = _given(arguments, options, "input", "mat1", "mat2")
    product = _matmul(operator, (left, right), {})
    beta, alpha = options.get("beta", 1), options.get("alpha", 1)
    return torch.add(beta * bias, product, alpha=alpha)


# F.linear of a weight that no replaced layer holds.


def _linear_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    x, weight, _ = _given(arguments, options, "input", "weight", "bias")
    return {"input": x} if _is_float(x) and _is_float(weight) and weight.ndim == 2 else None


def _linear(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
    x, weight, bias = _given(arguments, options, "input", "weight", "bias")
    held = operator.weight
    assert isinstance(held, WeightOperand)
    return F.linear(operator.operands["input"].rounded(x), held.rounded(weight), bias)


# F.conv1d and F.conv2d.

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _conv_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    x, weight, _, _, padding, *_ = _given(arguments, options, *_CONV)
    known = _is_float(x) and _is_float(weight) and not isinstance(padding, str)
    return {"input": x} if known else None


def _conv(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
    x, weight, bias, stride, padding, dilation, groups = _given(arguments, options, *_CONV)
    axes = weight.ndim - 2
    pads = _extents(padding or 0, axes, 0)
    convolution = Convolution(
        stride=_extents(stride or 1, axes, 1),
        padding=(pads[1], pads[1], pads[0], pads[0]),
        dilation=_extents(dilation or 1, axes, 1),
        groups=groups or 1,
        axes=axes,
    )
    held = operator.weight
    assert isinstance(held, WeightOperand)
    return convolution.product(x, held.rounded(weight), bias, operator.operands["input"])


def _extents(value: Any, axes: int, fill: int) -> tuple[int, int]:
    extents = (value,) * axes if isinstance(value, int) else tuple(value) * (axes // len(value))
    return (extents[0], extents[1]) if axes == 2 else (fill, extents[0])


# Normalisations: their input is rounded, their own parameters are not.


def _norm_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    (x,) = _given(arguments, options, "input")
    return {"input": x} if _is_float(x) else None


def _norm(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def rounded(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
        (x,) = _given(arguments, options, "input")
        rest = {name: value for name, value in options.items() if name != "input"}
        return function(operator.operands["input"].rounded(x), *arguments[1:], **rest)

    return rounded


# Sums and products of two tensors.


def _pair_values(arguments: Arguments, options: Options) -> dict[str, torch.Tensor] | None:
    left, right = _given(arguments, options, "input", "other")
    if "out" in options or not (_is_float(left) and _is_float(right)):
        return None
    return {"left": left, "right": right}


def _pair(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def rounded(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
        left, right = _given(arguments, options, "input", "other")
        rest = {name: value for name, value in options.items() if name == "alpha"}
        x, y = operator.operands["left"].rounded(left), operator.operands["right"].rounded(right)
        return function(x, y, **rest)

    return rounded


_MATMUL = Call(Kind.MATMUL, _matmul_values, _matmul, _matmul_weight)
_ADDMM = Call(Kind.MATMUL, _addmm_values, _addmm, _addmm_weight)
_LINEAR = Call(
    Kind.LINEAR, _linear_values, _linear, lambda a, o: _given(a, o, "input", "weight")[1]
)
_CONVOLUTION = Call(Kind.CONV, _conv_values, _conv, lambda a, o: _given(a, o, "input", "weight")[1])
_ADD = Call(Kind.ADD, _pair_values, _pair(torch.add))
_MUL = Call(Kind.MUL, _pair_values, _pair(torch.mul))

#: Functions of torch, as a ``TorchFunctionMode`` meets them, that are operators.
CALLS: dict[Any, Call] = {
    **dict.fromkeys(
        (
            torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__,
            torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm,
        ),
        _MATMUL,
    ),
    **dict.fromkeys((torch.addmm, torch.Tensor.addmm), _ADDMM),
    F.linear: _LINEAR,
    **dict.fromkeys((F.conv1d, F.conv2d, torch.conv1d, torch.conv2d), _CONVOLUTION),
    F.layer_norm: Call(Kind.LAYERNORM, _norm_values, _norm(F.layer_norm)),
    F.batch_norm: Call(Kind.BATCHNORM, _norm_values, _norm(F.batch_norm)),
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.__add__), _ADD),
    **dict.fromkeys((torch.mul, torch.multiply, torch.Tensor.mul, torch.Tensor.__mul__), _MUL),
}  # fmt: skip
#: Functions that write into their first operand, and the one that they are computed by.
IN_PLACE: dict[Any, Any] = {
    **dict.fromkeys((torch.Tensor.add_, torch.Tensor.__iadd__), torch.add),
    **dict.fromkeys((torch.Tensor.mul_, torch.Tensor.__imul__), torch.mul),
}
ATTENTION = F.scaled_dot_product_attention
#: Functions that no recipe has an operator for; they are listed where they are met.
LISTED: dict[Any, str] = {
    **dict.fromkeys((F.softmax, torch.softmax, torch.Tensor.softmax), "softmax"),
    **dict.fromkeys((F.gelu, F.relu, torch.relu, F.silu, torch.sigmoid), "activation"),
    **dict.fromkeys((torch.tanh, torch.Tensor.tanh, torch.Tensor.sigmoid), "activation"),
    **dict.fromkeys((torch.sub, torch.Tensor.sub, torch.Tensor.__sub__), "sub"),
    **dict.fromkeys((torch.div, torch.Tensor.div, torch.Tensor.__truediv__), "div"),
    **dict.fromkeys((torch.einsum, torch.baddbmm, torch.Tensor.baddbmm), "product"),
    **dict.fromkeys((F.group_norm, F.rms_norm, F.instance_norm), "norm"),
    **dict.fromkeys((F.conv3d, F.conv_transpose1d, F.conv_transpose2d), "convolution"),
    F.multi_head_attention_forward: "attention",
    F.embedding: "embedding",
}


def attention(
    scores_by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    values_by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``F.scaled_dot_product_attention`` taken apart into its two products.

    Args:
        scores_by: multiplies queries by keys, (..., L, E) by (..., E, S).
        values_by: multiplies weights by values.
        query, key, value: (..., heads, tokens, width), and the rest as that function has it.
    """
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(times, dim=-3) for t in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = scores_by(query, key.transpose(-2, -1)) * factor
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    # Rows without any key left have weights of zero, as the fused function has it.
    weights = scores.softmax(dim=-1).nan_to_num(nan=0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return values_by(weights, value)
