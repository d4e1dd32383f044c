"""The quantised linear layer: three products, and weights quantised once a step."""

from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import BothDirections, held, hold
from workbench.nn.first_order import first_order
from workbench.nn.runtime import Like, Runtime, dtype_behind, serves_both_directions
from workbench.nn.seeds import derived
from workbench.nn.tensor_scales import LayerScales

__all__ = ["QuantizedLinear"]

#: Dtypes that products write.
_SUMMED = (torch.bfloat16, torch.float16, torch.float32)
#: Steps that torch's optimisers took in this process.  A fused one writes parameters without
#: counting it as a change of theirs.
_steps_taken = [0]


def _stepped(*_: Any) -> None:
    _steps_taken[0] += 1


register_optimizer_step_post_hook(_stepped)


class _Linear(torch.autograd.Function):
    """``y = x · W^T + b`` and its gradients, each a product of codes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        operand: BothDirections,
        weights: BothDirections,
        scales: LayerScales | None,
        run: Runtime,
        seed: int,
    ) -> torch.Tensor:
        backend, recipe = run.backend(x.device), run.recipe
        hold(
            ctx,
            operand.turned or operand.forward if ctx.needs_input_grad[1] else None,
            weights.turned or weights.forward if ctx.needs_input_grad[0] else None,
        )
        ctx.run, ctx.seed, ctx.like, ctx.scales = run, seed, Like.of(x), scales
        ctx.turn_weight = weights.turned is None
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        shape = (*x.shape[:-1], weights.forward.shape[0])
        codes = operand.forward
        if run.dataflow:
            y = backend.coded_product(
                codes, weights.forward, out=recipe.output, bias=bias, share=run.share
            )
            return run.tensor(y, shape, x)
        dtype = dtype_behind(x)
        return backend.product(codes, weights.forward, dtype=dtype, bias=bias).view(shape)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        like: Like = ctx.like
        backend, recipe = run.backend(dy.device), run.recipe
        x, weights = held(ctx)
        key, train = derived(ctx.seed, 0), ctx.needs_input_grad[1]
        if ctx.scales is None:
            both = run.gradient_directions(dy, key, derived(ctx.seed, 2), both=train)
            codes, turned = both.forward, both.turned
        else:
            codes = run.scaled("gradient", dy, recipe.gradient, ctx.scales, train=True, seed=key)
            turned = None
        dx: torch.Tensor | None = None
        d_weight = d_bias = None
        if ctx.needs_input_grad[0] and like.coded:
            seed = derived(ctx.seed, 1)
            product = backend.coded_product(
                codes, weights, out=recipe.gradient, turn_b=ctx.turn_weight, seed=seed
            )
            dx = run.returned(product, like)
        elif ctx.needs_input_grad[0]:
            dx = backend.product(codes, weights, dtype=like.dtype, turn_b=ctx.turn_weight)
            dx = dx.view(like.shape)
        if ctx.needs_input_grad[1]:
            # Rounded once from fp32 sums, as a conversion behind the product would.
            wanted = ctx.dtypes[0]
            d_weight = backend.product(
                codes if turned is None else turned,
                x,
                dtype=wanted if wanted in _SUMMED else torch.float32,
                turn_a=turned is None,
                turn_b=serves_both_directions(recipe.activation),
            ).to(wanted)
        if ctx.needs_input_grad[2]:
            # Of the numbers where there are numbers: a sum needs no codes.
            coded = isinstance(dy, CodedTensor)
            plain = backend.dequantize(codes, torch.float32) if coded else dy.reshape(codes.shape)
            d_bias = plain.sum(dim=0, dtype=torch.float32).to(ctx.dtypes[1])
        return dx, d_weight, d_bias, None, None, None, None, None


class QuantizedLinear(nn.Module):
    """``nn.Linear`` on codes; its parameters are the high-precision ones that an optimiser steps.

    The weight is quantised anew after a step of any ``torch.optim.Optimizer``, and after writes
    that torch counts in place.  Other writes through ``weight.data`` go unseen: call
    :meth:`forget` after them.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, runtime: Runtime) -> None:
        """Take a layer's parameters as they are.

        Args:
            weight: (N, K).
            bias: (N).
            runtime: shared with the other layers of the model.
        """
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)
        self.runtime = runtime
        self.scales = runtime.layer_scales()
        self._codes: tuple[tuple[int, int, int], BothDirections] | None = None

    @classmethod
    def of(cls, linear: nn.Linear, runtime: Runtime) -> "QuantizedLinear":
        """The quantised layer with a layer's own parameters."""
        weight, bias = linear.weight, linear.bias
        assert isinstance(weight, nn.Parameter)
        assert bias is None or isinstance(bias, nn.Parameter)
        return cls(weight, bias, runtime)

    @property
    def matrix(self) -> torch.Tensor:
        """(N, K), the weight as the product reads it."""
        return self.weight

    @property
    def in_features(self) -> int:
        """K, as ``nn.Linear`` has it."""
        return self.matrix.shape[1]

    @property
    def out_features(self) -> int:
        """N, as ``nn.Linear`` has it."""
        return self.matrix.shape[0]

    def forget(self) -> None:
        """Quantise the weight anew at its next use."""
        self._codes = None

    def weight_codes(self) -> BothDirections:
        """Codes of the weight as it is now."""
        state = (self.weight._version, self.weight.data_ptr(), _steps_taken[0])
        if self._codes is None or self._codes[0] != state:
            trained = torch.is_grad_enabled()
            # Kept beyond torch.inference_mode(), whose tensors training may not save.
            with torch.inference_mode(False), torch.no_grad():
                codes = self.runtime.weights(
                    self.matrix.detach(), train=trained, scales=self.scales
                )
            self._codes = (state, codes)
        return self._codes[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"input of {x.shape[-1]} features: this layer takes {self.in_features}"
            )
        if not x.numel():  # no tokens have no codes: an expert may get none
            return nn.functional.linear(x, self.matrix.to(x.dtype), _cast(self.bias, x.dtype))
        run = self.runtime
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        with torch.no_grad():
            operand = run.operand(x, both=trained, scales=self.scales)
        y: torch.Tensor = _Linear.apply(  # type: ignore[no-untyped-call]  # torch
            x, self.matrix, self.bias, operand, self.weight_codes(), self.scales, run, run.draw()
        )
        return y

    def extra_repr(self) -> str:
        n, k = self.matrix.shape
        return f"{k}, {n}, bias={self.bias is not None}, recipe={self.runtime.recipe.name}"


def _cast(vector: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if vector is None else vector.to(dtype)
