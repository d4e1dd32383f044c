"""Linear layers whose weights are codes: what :func:`patch` puts in the place of plain ones.

Their state is buffers: ``codes``, ``scales``, ``bias`` and what they were made for, or the parts of
a packed weight and ``bias``.  So ``state_dict`` holds them, a model patched alike loads them, and
the state of the plain model or of another recipe is refused by name.  A change of the model's dtype
leaves codes and scales as they are.  For inference: no derivative.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_CODED = ("codes", "scales")


class PatchedLinear(torch.nn.Module):
    """What both kinds have in common.

    Args:
        recipe: of the product.
        shape: (out_features, in_features).
        bias: (out_features,), or ``None``.
    """

    def __init__(self, recipe: str, shape: tuple[int, int], bias: Tensor | None) -> None:
        super().__init__()
        self.recipe = recipe
        self.out_features, self.in_features = shape
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        #: The layer whose place it takes, in a tuple so that it is no part of this module.
        self.original: tuple[torch.nn.Module, ...] = ()

    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """``y[..., out] = x[..., in] · W^T + bias`` in x's dtype.

        Raises:
            ValueError: x has another last extent, or lies where no kernel runs.
            TypeError: the package has no kernel for x's dtype.
        """
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must be (..., {self.in_features}), got {tuple(x.shape)}")
        rows = x.reshape(-1, self.in_features).contiguous()
        y = self._product(rows)
        if self.bias is not None:
            y = y.add_(self.bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _product(self, rows: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features} -> {self.out_features}, {self.recipe}, bias={bias}"


class QuantizedLinear(PatchedLinear):
    """Codes by codes: activations are quantised on each call.

    Args:
        activation: format that activations are quantised to, e.g. ``"e4m3fn.b1x128"``.
        codes, scales: of the weights, as ``gemm`` takes them.
    """

    codes: Tensor
    scales: Tensor
    formats: Tensor  #: bytes of "recipe activation"

    def __init__(
        self, recipe: str, activation: str, codes: Tensor, scales: Tensor, bias: Tensor | None
    ) -> None:
        super().__init__(recipe, (codes.shape[0], codes.shape[1]), bias)
        self.activation = activation
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        text = list(f"{recipe} {activation}".encode())
        self.register_buffer("formats", torch.tensor(text, dtype=torch.uint8))
        # Looked up once: a compiler that traces the call meets plain functions.
        self._quantize: Any = _function("_quantize", "quantize")
        self._gemm: Any = _function("_gemm", "gemm")

    def _product(self, rows: Tensor) -> Tensor:
        codes, scales = self._quantize(rows, self.activation)
        y: Tensor = self._gemm(
            codes, self.codes, scales, self.scales, recipe=self.recipe, out_dtype=rows.dtype
        )
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        # As bytes: a change of dtype is for floating-point tensors, and would spoil codes.
        for name in _CODED:
            held = self._buffers[name]
            assert held is not None
            turned = held.ndim == 2 and held.stride(1) != 1
            rows = held.t() if turned else held
            moved = fn(rows.view(torch.uint8)).view(held.dtype)
            self._buffers[name] = moved.t() if turned else moved
        self._buffers["formats"] = fn(self.formats)
        if self.bias is not None:
            self._buffers["bias"] = fn(self.bias)
        return self

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *told: list[str]
    ) -> None:
        # Codes of another format are numbers too: copying them would convert what they are not.
        stored = state_dict.get(f"{prefix}formats")
        mine = f"{self.recipe} {self.activation}"
        if stored is not None and bytes(stored.tolist()) != mine.encode():
            other = bytes(stored.tolist()).decode(errors="replace")
            *_, errors = told
            errors.append(
                f"{prefix[:-1]}: the state is of {other}, the layer of {mine}: patch alike"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *told)


class WeightOnlyLinear(PatchedLinear):
    """16-bit activations by a packed weight.

    Args:
        weight: what ``pack_weight`` made.
    """

    def __init__(self, recipe: str, weight: Any, bias: Tensor | None) -> None:
        super().__init__(recipe, (weight.rows, weight.columns), bias)
        self.weight = weight

    def _product(self, rows: Tensor) -> Tensor:
        y: Tensor = self.weight(rows)
        return y


def _function(module: str, name: str) -> Any:
    """A function of this package, whose module need not ship."""
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)
