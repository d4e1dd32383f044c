"""The attention core: 16-bit numbers inside, codes in, codes out, and codes saved."""

import sys
from dataclasses import replace
from typing import Any

import torch

from workbench.nn.backend import Attended, Backend
from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import Codes, held, hold
from workbench.nn.compiled import outside_graphs
from workbench.nn.first_order import first_order
from workbench.nn.fused_attention import FusedKernel
from workbench.nn.runtime import Like, Runtime
from workbench.nn.seeds import derived

__all__ = ["attention"]

#: What the core computes in: that of its input, or bf16 where that is fp32.
_CORE = (torch.bfloat16, torch.float16)
#: 16-bit queries, keys and values of a turn of the backward pass, which has five times as much.
TURN_BYTES = 64 * 2**20


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        heads: int,
        causal: bool,
        run: Runtime,
        seed: int,
        feeds_product: bool,
    ) -> torch.Tensor:
        backend = run.backend(qkv.device)
        dtype = qkv.dtype if qkv.dtype in _CORE else torch.bfloat16
        if isinstance(qkv, CodedTensor):
            codes = run.codes(qkv)
            numbers = _numbers(codes, run, dtype)
        else:
            plain = qkv.reshape(-1, qkv.shape[-1])
            codes, numbers = backend.quantize_rounded(plain, run.recipe.activation, dtype)
        batch, tokens, width = qkv.shape
        shape = (batch, tokens, width // 3)
        attended = backend.attend(*_split(numbers, batch, heads), causal=causal)
        del numbers
        matrix = _joined(attended.out).reshape(batch * tokens, width // 3)
        out = backend.quantize(matrix, run.recipe.output, share=run.share)
        hold(ctx, codes, out, attended.log_sum)
        ctx.heads, ctx.causal, ctx.run, ctx.seed, ctx.dtype = heads, causal, run, seed, dtype
        ctx.kernel = attended.kernel
        like = Like.of(qkv)
        ctx.like = replace(like, coded=like.coded or feeds_product)
        return run.tensor(out, shape, qkv)

    @staticmethod
    @first_order
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        run: Runtime = ctx.run
        qkv, out, log_sum = held(ctx)
        batch, tokens, width = ctx.like.shape
        # Numbers need no codes of their own.
        grad = dy.codes if isinstance(dy, CodedTensor) else dy.reshape(-1, dy.shape[-1])
        # The sequences in turns: what is 16-bit of a turn is gone before the next one begins.
        coded = (qkv, out, grad) if isinstance(grad, Codes) else (qkv, out)
        step = min(batch, _sequences_of_a_turn(tokens, width, coded))
        made = run.gradient_in_parts(
            *((batch * tokens, width), ctx.dtype, qkv.device, derived(ctx.seed, 1)),
            parts=(step * tokens, width // 3),
            feeds_products=ctx.like.coded,
        )
        for begin in range(0, batch, step):
            count = min(step, batch - begin)
            rows = slice(begin * tokens, (begin + count) * tokens)
            parts = _backward_of(
                _part(grad, rows, run, ctx.dtype),
                _numbers(qkv.rows(rows), run, ctx.dtype),
                _numbers(out.rows(rows), run, ctx.dtype),
                log_sum[begin : begin + count],
                ctx.kernel,
                ctx.heads,
                run.backend(dy.device),
                causal=ctx.causal,
            )
            for place, part in enumerate(parts):
                made.put(_joined(part).flatten(0, 1), rows.start, place * (width // 3))
            del parts, part
        return run.returned(made.codes(), ctx.like), None, None, None, None, None


def _backward_of(
    grad: torch.Tensor,
    qkv: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    kernel: FusedKernel | None,
    heads: int,
    backend: Backend,
    *,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values of some sequences, from 16-bit matrices."""
    batch = log_sum.shape[0]
    saved = Attended(out=_heads(out, batch, heads), log_sum=log_sum, kernel=kernel)
    operands = _split(qkv, batch, heads)
    return backend.attend_backward(_heads(grad, batch, heads), *operands, saved, causal=causal)


def _sequences_of_a_turn(tokens: int, width: int, read: tuple[Codes, ...]) -> int:
    """Whole sequences whose queries, keys and values take ``TURN_BYTES``, of whole blocks each."""
    if any(not one.splits_at(tokens) for one in read):
        return sys.maxsize
    return max(1, TURN_BYTES // (2 * tokens * width))


def _numbers(codes: Codes, run: Runtime, dtype: torch.dtype) -> torch.Tensor:
    return run.backend(codes.device).dequantize(codes, dtype)


def _part(
    grad: Codes | torch.Tensor, rows: slice, run: Runtime, dtype: torch.dtype
) -> torch.Tensor:
    if isinstance(grad, Codes):
        return _numbers(grad.rows(rows), run, dtype)
    return grad[rows].to(dtype)


def _heads(matrix: torch.Tensor, batch: int, heads: int) -> torch.Tensor:
    """(batch x tokens, width) as (batch, heads, tokens, width of a head)."""
    return matrix.view(batch, -1, heads, matrix.shape[1] // heads).transpose(1, 2)


def _joined(x: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, width of a head) as (batch, tokens, width)."""
    return x.transpose(1, 2).flatten(2)


def _split(
    matrix: torch.Tensor, batch: int, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # Views: attention kernels take rows that lie apart, and copies would cost as much as the codes.
    q, k, v = (_heads(part, batch, heads) for part in matrix.chunk(3, dim=1))
    return q, k, v


@outside_graphs
def attention(
    qkv: torch.Tensor,
    heads: int,
    run: Runtime,
    *,
    causal: bool = True,
    feeds_product: bool = False,
) -> torch.Tensor:
    """Self-attention of the joint projection (batch, tokens, 3 x width) to (batch, tokens, width).

    Saved are codes of queries, keys, values and output, and a number a row; inside, and for them in
    backward, everything is 16-bit: what the codes stand for, forward too.

    Args:
        feeds_product: a layer here made the projection, so its gradient may come in codes, whatever
            the projection is.
    Raises:
        ValueError: the projection is not three times a multiple of ``heads`` wide.
    """
    if heads < 1:
        raise ValueError(f"{heads} heads: attention has at least one")
    if qkv.ndim != 3 or qkv.shape[2] % (3 * heads):
        raise ValueError(
            f"projection of shape {tuple(qkv.shape)} for {heads} heads: (batch, tokens, 3 x width) "
            "with a width that the heads divide is needed"
        )
    if not qkv.numel():
        return qkv[..., : qkv.shape[2] // 3]
    y: torch.Tensor = _Attention.apply(qkv, heads, causal, run, run.draw(), feeds_product)  # type: ignore[no-untyped-call]  # torch
    return y
