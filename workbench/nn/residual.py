"""The residual stream of a block and the norm that reads it, as one operator."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import held, hold
from workbench.nn.compiled import outside_graphs
from workbench.nn.first_order import first_order
from workbench.nn.layer_rules import hooked
from workbench.nn.layers import QuantizedNorm
from workbench.nn.operators import residual_add
from workbench.nn.runtime import Like, Runtime, serves_both_directions
from workbench.nn.seeds import derived

__all__ = ["normed_stream"]


class _NormedStream(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        stream: torch.Tensor,
        branch: torch.Tensor | None,
        gamma: torch.Tensor,
        beta: torch.Tensor | None,
        norm: QuantizedNorm,
        seed: int,
        feeds_product: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        run = norm.runtime
        backend, recipe = run.backend(stream.device), run.recipe
        if branch is None:
            total, codes = stream.view_as(stream), run.codes(stream)
        else:
            other = branch.codes if isinstance(branch, CodedTensor) else _rows(branch)
            made, found = backend.add(_rows(stream), other, recipe.activation)
            assert found is not None  # codes were asked for
            total, codes = made.view(stream.shape), found
        normal = backend.normalize(
            norm.op,
            codes,
            gamma.float(),
            None if beta is None else beta.float(),
            epsilon=norm.epsilon,
            out=recipe.output,
            share=run.share,
        )
        hold(ctx, codes, normal.mean, normal.variance, gamma)
        ctx.op, ctx.epsilon, ctx.run, ctx.seed = norm.op, norm.epsilon, run, seed
        ctx.dtype, ctx.shape = stream.dtype, stream.shape
        ctx.branch = None if branch is None else Like.of(branch)
        ctx.feeds_product, ctx.beta_dtype = feeds_product, None if beta is None else beta.dtype
        return total, run.tensor(normal.y, total.shape, total)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_total: torch.Tensor | None, d_y: torch.Tensor | None) -> Any:
        run: Runtime = ctx.run
        if d_total is None and d_y is None:
            return (None,) * 7
        codes, mean, variance, gamma = held(ctx)
        device, like = codes.device, ctx.branch
        backend, fmt, seed = run.backend(device), run.recipe.gradient, derived(ctx.seed, 1)
        coded = like is not None and (like.coded or ctx.feeds_product)
        onto = None if d_total is None else _rows(_numbers(d_total))
        saved = (mean, variance)
        rest: dict[str, Any] = {"epsilon": ctx.epsilon}
        d_gamma = d_beta = of_branch = None
        if d_y is None:
            assert onto is not None  # one of the two
            total = onto
        elif isinstance(d_y, CodedTensor):
            rest |= {"out": fmt, "seed": derived(ctx.seed, 0)}
            dy = run.gradient(d_y, derived(ctx.seed, 2))
            found = backend.normalize_backward(ctx.op, codes, dy, *saved, gamma.float(), **rest)
            d_gamma, d_beta = found.d_gamma, found.d_beta
            if onto is None:
                total = backend.dequantize(found.dx, ctx.dtype)
            else:
                both = serves_both_directions(fmt)
                asked: dict[str, Any] = {"out": fmt, "both": both, "seed": seed} if coded else {}
                total, of_branch = backend.add(onto, found.dx, **asked)
        else:
            rest |= {"dtype": ctx.dtype, "onto": onto}
            total, d_gamma, d_beta = backend.normalize_gradient(
                ctx.op, codes, _rows(d_y), *saved, gamma, **rest
            )
        d_branch = None
        if coded:
            if of_branch is None:
                of_branch = run.gradient(total, seed, feeds_products=True)
            d_branch = run.returned(of_branch, replace(like, coded=True))
        elif like is not None:
            d_branch = total.to(like.dtype).view(like.shape)
        if d_gamma is not None:
            d_gamma = d_gamma.to(gamma.dtype)
        if d_beta is not None:
            d_beta = d_beta.to(ctx.beta_dtype)
        return total.view(ctx.shape), d_branch, d_gamma, d_beta, None, None, None


def _numbers(x: torch.Tensor) -> torch.Tensor:
    return x.dequantized() if isinstance(x, CodedTensor) else x


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


@outside_graphs
def normed_stream(
    stream: torch.Tensor,
    norm: nn.Module,
    run: Runtime,
    *,
    branch: torch.Tensor | None = None,
    feeds_product: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a branch to the 16-bit residual stream, if there is one, and norm the sum.

    In backward the norm's gradient joins the stream's in one pass, without codes of it where the
    layers behind the norm hand over numbers.

    Args:
        norm: called as it is where it is none of the layers here, or has hooks.
        feeds_product: a layer here made the branch, so its gradient may come in codes, whatever the
            branch is.
    Returns:
        The sum in the stream's dtype, and what the norm makes of its codes.
    Raises:
        ValueError: the shapes differ, or the stream is in codes and is added to.
    """
    apart = not isinstance(norm, QuantizedNorm) or hooked(norm) or isinstance(stream, CodedTensor)
    if apart or not stream.numel() or (branch is not None and branch.shape != stream.shape):
        copy = stream
        if branch is not None:
            stream, copy = residual_add(stream, branch, run)
        return stream, norm(copy)
    assert isinstance(norm, QuantizedNorm)
    gamma, beta = norm.vectors(stream)
    total, y = _NormedStream.apply(stream, branch, gamma, beta, norm, run.draw(), feeds_product)  # type: ignore[no-untyped-call]  # torch
    return total, y
