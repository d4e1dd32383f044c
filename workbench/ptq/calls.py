"""Functions of torch that are operators of a scheme: what each multiplies, adds or normalises.

Each handler gets the arguments of an intercepted call and computes it on an operator's terms.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from workbench.ptq.masks import rounded_but_masks
from workbench.ptq.operator import Operator
from workbench.ptq.products import Convolution
from workbench.ptq.scheme import Kind
from workbench.ptq.weight_operand import WeightOperand

__all__ = ["ATTENTION", "CALLS", "IN_PLACE", "MISSED", "Call"]

_PRODUCTS = (Kind.LINEAR, Kind.CONV, Kind.MATMUL)
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

    def missed(self, arguments: Arguments, options: Options) -> bool:
        """Whether a call without operands is a product of numbers all the same.

        Sums with a number, and whatever counts in integers, are no operators of any scheme.
        """
        given = [one for one in (*arguments, *options.values()) if isinstance(one, torch.Tensor)]
        return self.kind in _PRODUCTS and len(given) > 1 and all(map(_is_float, given[:2]))


def _given(arguments: Arguments, options: Options, *names: str) -> list[Any]:
    """Arguments by position or by name; ``None`` where there is none."""
    return [
        arguments[place] if place < len(arguments) else options.get(name)
        for place, name in enumerate(names)
    ]


#: Why a product is left as it is.
MISSED = "a product with a vector: operators take matrices"


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
    if beta == 0:  # torch does not look at the bias then, NaN or not
        bias = torch.zeros_like(bias)
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
    x, weight, *_ = _given(arguments, options, *_CONV)
    return {"input": x} if _is_float(x) and _is_float(weight) else None


def _conv(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
    x, weight, bias, stride, padding, dilation, groups = _given(arguments, options, *_CONV)
    axes = weight.ndim - 2
    spread = _extents(dilation or 1, axes, 1)
    convolution = Convolution(
        stride=_extents(stride or 1, axes, 1),
        padding=_padding(padding or 0, weight, spread),
        dilation=spread,
        groups=groups or 1,
        axes=axes,
    )
    held = operator.weight
    assert isinstance(held, WeightOperand)
    return convolution.product(x, held.rounded(weight), bias, operator.operands["input"])


def _padding(
    padding: Any, weight: torch.Tensor, dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, right, above and below; ``same`` puts an odd one behind, as torch does."""
    if padding != "same":
        pads = _extents(0 if padding == "valid" else padding, weight.ndim - 2, 0)
        return pads[1], pads[1], pads[0], pads[0]
    height = weight.shape[2] if weight.ndim == 4 else 1
    down, across = dilation[0] * (height - 1), dilation[1] * (weight.shape[-1] - 1)
    return across // 2, across - across // 2, down // 2, down - down // 2


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
    if not (_is_float(left) and _is_float(right)):
        return None
    return {"left": left, "right": right}


def _pair(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def rounded(operator: Operator, arguments: Arguments, options: Options) -> torch.Tensor:
        left, right = _given(arguments, options, "input", "other")
        rest = {name: value for name, value in options.items() if name == "alpha"}
        x, y = (
            rounded_but_masks(operator.operands[role], operand)
            for role, operand in (("left", left), ("right", right))
        )
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
            torch.matmul, torch.linalg.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__,
            torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm,
        ),
        _MATMUL,
    ),
    **dict.fromkeys((torch.addmm, torch.Tensor.addmm), _ADDMM),
    F.linear: _LINEAR,
    **dict.fromkeys((F.conv1d, F.conv2d, torch.conv1d, torch.conv2d), _CONVOLUTION),
    **{
        one: Call(kind, _norm_values, _norm(one))
        for kind, both in (
            (Kind.LAYERNORM, (F.layer_norm, torch.layer_norm)),
            (Kind.BATCHNORM, (F.batch_norm, torch.batch_norm)),
        )
        for one in both
    },
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.__add__), _ADD),
    **dict.fromkeys((torch.mul, torch.multiply), _MUL),
    **dict.fromkeys((torch.Tensor.mul, torch.Tensor.multiply, torch.Tensor.__mul__), _MUL),
}  # fmt: skip
#: Functions that write into their first operand, and the one that they are computed by.
IN_PLACE: dict[Any, Any] = {
    **dict.fromkeys((torch.Tensor.add_, torch.Tensor.__iadd__), torch.add),
    **dict.fromkeys((torch.Tensor.mul_, torch.Tensor.multiply_, torch.Tensor.__imul__), torch.mul),
    torch.Tensor.addmm_: torch.addmm,
}
ATTENTION = F.scaled_dot_product_attention
