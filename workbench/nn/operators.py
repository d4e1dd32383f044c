"""Operators between products, on codes in both directions: activations, gates, dropout, sums."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import held, hold
from workbench.nn.compiled import outside_graphs
from workbench.nn.first_order import first_order
from workbench.nn.runtime import Like, Runtime, serves_both_directions
from workbench.nn.seeds import derived

__all__ = ["activation", "dropout", "gated", "normalized", "residual_add"]


#: What an operator does to no tokens at all, which have no codes: an expert may get none.
_EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, op: str, run: Runtime, seed: int) -> torch.Tensor:
        codes = run.codes(x)
        hold(ctx, codes)
        ctx.op, ctx.run, ctx.seed, ctx.like = op, run, seed, Like.of(x)
        y = run.backend(x.device).elementwise(op, codes, out=run.recipe.output, share=run.share)
        return run.tensor(y, x.shape, x)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        (x,) = held(ctx)
        backend, out, seed = run.backend(dy.device), run.recipe.gradient, derived(ctx.seed, 1)
        if isinstance(dy, CodedTensor) or x.format.element.name != "int8":
            codes = run.gradient(dy, derived(ctx.seed, 0))
            dx = backend.elementwise(f"{ctx.op}-bwd", x, dy=codes, out=out, seed=seed)
        else:  # numbers need no codes of their own
            plain = dy.reshape(-1, dy.shape[-1])
            dx = backend.activate_backward(ctx.op, x, plain, out=out, seed=seed)
        return run.returned(dx, ctx.like), None, None, None


@outside_graphs
def activation(x: torch.Tensor, op: str, run: Runtime) -> torch.Tensor:
    """``gelu`` (exact), ``silu`` or ``relu`` of a tensor; its codes are saved."""
    if not x.numel():
        return _EXACT[op](x)
    y: torch.Tensor = _Activation.apply(x, op, run, run.draw())  # type: ignore[no-untyped-call]  # torch
    return y


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: torch.Tensor, up: torch.Tensor, op: str, run: Runtime, seed: int
    ) -> torch.Tensor:
        codes = run.codes(gate), run.codes(up)
        hold(ctx, *codes)
        ctx.op, ctx.run, ctx.seed, ctx.likes = op, run, seed, (Like.of(gate), Like.of(up))
        y = run.backend(gate.device).gate(op, *codes, out=run.recipe.output, share=run.share)
        return run.tensor(y, gate.shape, gate)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        gate, up = held(ctx)
        grads = run.backend(dy.device).gate_backward(
            ctx.op,
            gate,
            up,
            run.gradient(dy, derived(ctx.seed, 0)),
            out=run.recipe.gradient,
            seed=derived(ctx.seed, 1),
        )
        d_gate, d_up = map(run.returned, grads, ctx.likes)
        return d_gate, d_up, None, None, None


@outside_graphs
def gated(gate: torch.Tensor, up: torch.Tensor, op: str, run: Runtime) -> torch.Tensor:
    """``activation(gate) x up``: SwiGLU with ``silu``, GEGLU with ``gelu``.

    Raises:
        ValueError: the shapes differ.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate {tuple(gate.shape)} and up {tuple(up.shape)}: they must be equal")
    if not gate.numel():
        return _EXACT[op](gate) * up
    y: torch.Tensor = _Gated.apply(gate, up, op, run, run.draw())  # type: ignore[no-untyped-call]  # torch
    return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, probability: float, run: Runtime, seed: int, mask: int
    ) -> torch.Tensor:
        ctx.run, ctx.seed, ctx.probability, ctx.like = run, seed, probability, Like.of(x)
        ctx.mask, backend, out = mask, run.backend(x.device), run.recipe.output
        y = backend.dropout(
            run.codes(x), out=out, probability=probability, mask_seed=mask, share=run.share
        )
        return run.tensor(y, x.shape, x)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        dx = run.backend(dy.device).dropout(
            run.gradient(dy, derived(ctx.seed, 0)),
            out=run.recipe.gradient,
            probability=ctx.probability,
            mask_seed=ctx.mask,
            seed=derived(ctx.seed, 1),
        )
        return run.returned(dx, ctx.like), None, None, None, None


@outside_graphs
def dropout(x: torch.Tensor, probability: float, run: Runtime) -> torch.Tensor:
    """Dropout of codes; the mask is drawn again in backward, nothing is saved."""
    if not x.numel():
        return x
    y: torch.Tensor = _Dropout.apply(x, probability, run, run.draw(), run.mask_key())  # type: ignore[no-untyped-call]  # torch
    return y


class _Normalized(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gamma: torch.Tensor,
        beta: torch.Tensor | None,
        op: str,
        epsilon: float,
        run: Runtime,
        seed: int,
    ) -> torch.Tensor:
        codes = run.codes(x)
        found = run.backend(x.device).normalize(
            op,
            codes,
            gamma.float(),
            None if beta is None else beta.float(),
            epsilon=epsilon,
            out=run.recipe.output,
            share=run.share,
        )
        hold(ctx, codes, found.mean, found.variance, gamma)
        ctx.op, ctx.epsilon, ctx.run, ctx.seed, ctx.like = op, epsilon, run, seed, Like.of(x)
        ctx.beta_dtype = None if beta is None else beta.dtype
        return run.tensor(found.y, x.shape, x)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        x, mean, variance, gamma = held(ctx)
        grads = run.backend(dy.device).normalize_backward(
            ctx.op,
            x,
            run.gradient(dy, derived(ctx.seed, 0)),
            mean,
            variance,
            gamma.float(),
            epsilon=ctx.epsilon,
            out=run.recipe.gradient,
            seed=derived(ctx.seed, 1),
        )
        d_beta = None
        if ctx.beta_dtype is not None:
            assert grads.d_beta is not None  # of LayerNorm, which alone takes a beta
            d_beta = grads.d_beta.to(ctx.beta_dtype)
        d_gamma = grads.d_gamma.to(gamma.dtype)
        return run.returned(grads.dx, ctx.like), d_gamma, d_beta, None, None, None, None


def _cast(vector: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if vector is None else vector.to(like.dtype)


@outside_graphs
def normalized(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor | None,
    op: str,
    epsilon: float,
    run: Runtime,
) -> torch.Tensor:
    """``layernorm`` or ``rmsnorm`` over the last dimension; saves the codes of ``x``.

    Statistics are those of the codes, so a plain ``x`` (the 16-bit residual stream) is quantised
    first, and its gradient comes back in numbers.
    """
    if not x.numel():
        width = (x.shape[-1],)
        if op == "layernorm":
            return functional.layer_norm(x, width, gamma.to(x.dtype), _cast(beta, x), epsilon)
        return functional.rms_norm(x, width, gamma.to(x.dtype), epsilon)
    y: torch.Tensor = _Normalized.apply(x, gamma, beta, op, epsilon, run, run.draw())  # type: ignore[no-untyped-call]  # torch
    return y


class _ResidualAdd(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream: torch.Tensor, branch: torch.Tensor, run: Runtime, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        ctx.run, ctx.seed, ctx.like = run, seed, Like.of(branch)
        plain = branch.codes if isinstance(branch, CodedTensor) else _rows(branch)
        backend, fmt = run.backend(stream.device), run.recipe.activation
        total, codes = backend.add(_rows(stream), plain, fmt)
        assert codes is not None  # they were asked for
        total = total.view(stream.shape)
        return total, run.tensor(codes, total.shape, total)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_total: torch.Tensor | None, d_copy: torch.Tensor | None) -> Any:
        run: Runtime = ctx.run
        if d_total is None and d_copy is None:
            return None, None, None, None
        like: Like = ctx.like
        if like.coded and isinstance(d_copy, CodedTensor) and _plain(d_total):
            assert d_total is not None
            fmt = run.recipe.gradient
            both = serves_both_directions(fmt)
            total, codes = run.backend(d_total.device).add(
                _rows(d_total), d_copy.codes, fmt, both=both, seed=ctx.seed
            )
            assert codes is not None
            return total.view(d_total.shape), run.returned(codes, like), None, None
        grad = _summed(d_total, d_copy, run)
        if not like.coded:  # a layer that is kept in high precision
            return grad, grad.to(like.dtype), None, None
        codes = run.gradient(grad, ctx.seed, feeds_products=True)
        return grad, run.returned(codes, like), None, None


def _plain(x: torch.Tensor | None) -> bool:
    return x is not None and not isinstance(x, CodedTensor)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _summed(one: torch.Tensor | None, other: torch.Tensor | None, run: Runtime) -> torch.Tensor:
    """The sum of two gradients, one of which may be missing, in numbers."""
    parts = [part for part in (one, other) if part is not None]
    if len(parts) == 1:
        (part,) = parts
        return part.dequantized() if isinstance(part, CodedTensor) else part
    first, second = parts
    if isinstance(first, CodedTensor):
        first = first.dequantized()
    codes = second.codes if isinstance(second, CodedTensor) else _rows(second)
    return run.backend(first.device).add(_rows(first), codes)[0].view(first.shape)


@outside_graphs
def residual_add(
    stream: torch.Tensor, branch: torch.Tensor, run: Runtime
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a branch to the 16-bit residual stream.

    Returns:
        The sum in the stream's dtype, and its codes for the norm behind it.
    Raises:
        ValueError: the shapes differ, or the stream is in codes.
    """
    if stream.shape != branch.shape or isinstance(stream, CodedTensor):
        kind = "codes" if isinstance(stream, CodedTensor) else "a plain tensor"
        raise ValueError(
            f"stream of shape {tuple(stream.shape)}, {kind}, and branch of shape "
            f"{tuple(branch.shape)}: a residual stream is a plain tensor of the branch's shape"
        )
    if not stream.numel():
        total = stream + branch.to(stream.dtype)
        return total, total
    total, copy = _ResidualAdd.apply(stream, branch, run, run.draw())  # type: ignore[no-untyped-call]  # torch
    return total, copy
