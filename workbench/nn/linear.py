"""The quantised linear layer: three products, and weights quantised once a step."""

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from workbench.nn import graph_operators
from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import BothDirections, Codes, held, hold
from workbench.nn.compiled import outside_graphs
from workbench.nn.first_order import first_order
from workbench.nn.in_graph import InGraph
from workbench.nn.runtime import Like, Runtime, dtype_behind, same_values, serves_both_directions
from workbench.nn.seeds import derived
from workbench.nn.tensor_scales import LayerScales

__all__ = ["QuantizedLinear"]

#: A weight, for ``torch.func.functional_call`` puts one after the other in the parameter's place
#: and memory of one that is gone goes to the next; its state; and its codes.
_Kept = tuple["weakref.ref[torch.Tensor]", tuple[int, int, int], BothDirections]
#: Steps that torch's optimisers took in this process.  A fused one writes parameters without
#: counting it as a change of theirs.
_steps_taken = [0]


def _stepped(*_: Any) -> None:
    _steps_taken[0] += 1


register_optimizer_step_post_hook(_stepped)


class _Product(torch.autograd.Function):
    """``y = x · W^T + b`` and the gradient of ``x``, each a product of codes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        codes: Codes,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        weights: BothDirections,
        layer: "QuantizedLinear",
        seed: int,
    ) -> torch.Tensor:
        run, scales = layer.runtime, layer.scales
        backend, recipe = run.backend(x.device), run.recipe
        ctx.run, ctx.seed, ctx.like, ctx.scales = run, seed, Like.of(x), scales
        ctx.kept, ctx.turn_weight = layer.keeps_codes, weights.turned is None
        ctx.coded = ctx.like.coded and not layer.plain_gradient
        held_weights = (weights.turned or weights.forward) if ctx.kept else weight
        hold(ctx, held_weights if ctx.needs_input_grad[0] else None)
        shape = (*x.shape[:-1], weights.forward.shape[0])
        if run.dataflow and not layer.plain_output:
            if run.fused:
                made = backend.coded_product(
                    codes, weights.forward, out=recipe.output, bias=bias, share=run.share
                )
            else:
                values = backend.product(codes, weights.forward, dtype=dtype_behind(x), bias=bias)
                made = backend.quantize(values, recipe.output, share=run.share)
            return run.tensor(made, shape, x)
        values = backend.product(codes, weights.forward, dtype=dtype_behind(x), bias=bias)
        # No view for autograd: the next node, and who gets the output, may write to it.
        y: torch.Tensor = torch.ops.aten._unsafe_view(values, shape)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        like: Like = ctx.like
        backend, recipe = run.backend(dy.device), run.recipe
        codes = _gradient(dy, run, ctx.scales, ctx.seed, both=False).forward
        (weights,) = held(ctx)
        turn = ctx.turn_weight
        if not ctx.kept:
            weights, turn = backend.quantize(weights.t(), recipe.weight), False
        seed = derived(ctx.seed, 1)
        if ctx.coded and run.fused:
            product = backend.coded_product(
                codes, weights, out=recipe.gradient, turn_b=turn, seed=seed
            )
            return run.returned(product, like), None, None, None, None, None, None
        dx = backend.product(codes, weights, dtype=like.dtype, turn_b=turn)
        if ctx.coded:
            del weights, codes  # gone before codes of the product come
            product = backend.quantize(dx, recipe.gradient, seed=seed)
            dx = run.returned(product, like)
        else:
            dx = dx.view(like.shape)
        return dx, None, None, None, None, None, None


class _ParameterGradients(torch.autograd.Function):
    """The product's output itself; its backward pass has the gradients of weight and bias.

    A node of its own, behind the product's: autograd adds the weight's gradient up and lets go of
    it, and of the saved input, before the gradient of the input is made.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        operand: BothDirections,
        layer: "QuantizedLinear",
        seed: int,
    ) -> torch.Tensor:
        ctx.run, ctx.seed, ctx.scales = layer.runtime, seed, layer.scales
        ctx.dtypes = (weight.dtype, None if bias is None else bias.dtype)
        hold(ctx, (operand.turned or operand.forward) if ctx.needs_input_grad[1] else None)
        if isinstance(y, CodedTensor):
            return y.reshaped(y.shape)
        ctx.mark_dirty(y)  # no view of it: what the layer returns may be written to
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        backend = run.backend(dy.device)
        train = ctx.needs_input_grad[1]
        both = _gradient(dy, run, ctx.scales, ctx.seed, both=train)
        codes = both.forward
        d_weight = d_bias = None
        if train:
            # Rounded once from fp32 sums, as a conversion behind the product would.
            wanted = ctx.dtypes[0]
            (x,) = held(ctx)
            d_weight = backend.product(
                codes if both.turned is None else both.turned,
                x,
                dtype=wanted if wanted in graph_operators.SUMMED else torch.float32,
                turn_a=both.turned is None,
                turn_b=serves_both_directions(run.recipe.activation),
            ).to(wanted)
        if ctx.needs_input_grad[2]:
            # Of the numbers where there are numbers: a sum needs no codes.
            coded = isinstance(dy, CodedTensor)
            plain = backend.dequantize(codes, torch.float32) if coded else dy.reshape(codes.shape)
            d_bias = plain.sum(dim=0, dtype=torch.float32).to(ctx.dtypes[1])
        passed = None
        if ctx.needs_input_grad[0]:
            like = Like(shape=dy.shape, dtype=dy.dtype, coded=True)
            passed = run.returned(replace(codes, turned=None), like)
        return passed, d_weight, d_bias, None, None, None


def _gradient(
    dy: torch.Tensor, run: Runtime, scales: LayerScales | None, seed: int, *, both: bool
) -> BothDirections:
    """Codes of a layer's gradient: new ones of numbers, and else those that it has."""
    if scales is None:
        return run.gradient_directions(dy, derived(seed, 0), derived(seed, 2), both=both)
    if isinstance(dy, CodedTensor) and same_values(dy.codes.format, run.recipe.gradient):
        return BothDirections(forward=dy.codes, turned=None)
    plain = dy.dequantized() if isinstance(dy, CodedTensor) else dy
    codes = run.scaled(
        "gradient", plain, run.recipe.gradient, scales, train=True, seed=derived(seed, 0)
    )
    return BothDirections(forward=codes, turned=None)


class QuantizedLinear(nn.Module):
    """``nn.Linear`` on codes; its parameters are the high-precision ones that an optimiser steps.

    The weight is quantised anew after a step of any ``torch.optim.Optimizer``, after writes that
    torch counts in place, and where another tensor takes its place.  Other writes through
    ``weight.data`` go unseen: call :meth:`forget` after them.  Where the runtime keeps no codes of
    weights, they are made anew in every pass, forward and backward, and nothing goes unseen.
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
        self.plain_output = False  #: numbers behind it, where others of the recipe leave codes
        self.plain_gradient = False  #: and numbers for the gradient of its input
        self._codes: _Kept | None = None
        if runtime.in_graph is not None:
            runtime.in_graph.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """Without codes: a copy, or a model that is saved as a whole, makes its own."""
        return {**self.__dict__, "_codes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As of any module; graphs find it, too."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch
        if self.runtime.in_graph is not None:
            self.runtime.in_graph.add(self)

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

    @property
    def keeps_codes(self) -> bool:
        """True where codes of the weight last from a step to the next."""
        run = self.runtime
        made_once = self.scales is not None or not serves_both_directions(run.recipe.weight)
        return made_once or run.keep_weights

    def weight_codes(self) -> BothDirections:
        """Codes of the weight as it is now."""
        weight, kept = self.weight, self._codes
        # Torch counts no writes to tensors of torch.inference_mode(): nothing tells of them.
        state = None if weight.is_inference() else _state(weight)
        if state is not None and kept is not None and kept[0]() is weight and kept[1] == state:
            return kept[2]
        trained = torch.is_grad_enabled()
        # Kept beyond torch.inference_mode(), whose tensors training may not save.
        with torch.inference_mode(False), torch.no_grad():
            codes = self.runtime.weights(self.matrix.detach(), train=trained, scales=self.scales)
        self._codes = None if state is None else (weakref.ref(weight), state, codes)
        return codes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) to (..., N)."""
        graph = self.runtime.in_graph
        if torch.compiler.is_compiling() and graph is not None and not isinstance(x, CodedTensor):
            return self._in_graph(x, graph)
        return self._on_codes(x)

    def _of_no_tokens(self, x: torch.Tensor) -> torch.Tensor | None:
        """No tokens have no codes: an expert may get none.  ``None`` where there are some."""
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"input of {x.shape[-1]} features: this layer takes {self.in_features}"
            )
        if x.numel():
            return None
        return nn.functional.linear(x, self.matrix.to(x.dtype), _cast(self.bias, x.dtype))

    def _in_graph(self, x: torch.Tensor, graph: InGraph) -> torch.Tensor:
        """As :meth:`_on_codes`, by operators of a graph."""
        if (none := self._of_no_tokens(x)) is not None:
            return none
        named, seed = (graph.place, graph.formats), None
        if torch.is_grad_enabled():
            seeds = self.runtime.seeds
            seed, seeds.counter = graph_operators.key(seeds.counter, *named)
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        codes = graph_operators.input_codes(x.detach(), *named, trained and not graph.both)
        y: torch.Tensor = graph_operators.product(
            *(x, self.matrix, self.bias, codes, seed, *named, dtype_behind(x))
        )
        return y

    @outside_graphs
    def _on_codes(self, x: torch.Tensor) -> torch.Tensor:
        if (none := self._of_no_tokens(x)) is not None:
            return none
        run = self.runtime
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        with torch.no_grad():
            operand = run.operand(x, both=trained, scales=self.scales)
        seed, bias = run.draw(), self.bias
        y: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]  # torch
            *(x, operand.forward, self.matrix.detach(), None if bias is None else bias.detach()),
            *(self._weights_of_pass(), self, seed),
        )
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            y = _ParameterGradients.apply(y, self.matrix, bias, operand, self, seed)  # type: ignore[no-untyped-call]  # torch
        return y

    def _weights_of_pass(self) -> BothDirections:
        """Codes of the weight for a forward pass; of one that is trained, kept nowhere else."""
        if self.keeps_codes or not torch.is_grad_enabled():
            return self.weight_codes()
        self.forget()
        with torch.no_grad():
            return self.runtime.weights(self.matrix.detach(), train=True)

    def extra_repr(self) -> str:
        n, k = self.matrix.shape
        return f"{k}, {n}, bias={self.bias is not None}, recipe={self.runtime.recipe.name}"


def _state(weight: torch.Tensor) -> tuple[int, int, int]:
    """What changes where a weight does."""
    return weight._version, weight.data_ptr(), _steps_taken[0]


def _cast(vector: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if vector is None else vector.to(dtype)
