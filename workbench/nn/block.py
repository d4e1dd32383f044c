"""A transformer block whose activations travel in codes: Jetfire's dataflow."""

import torch
from torch import nn

from workbench.nn import operators
from workbench.nn.attention import attention
from workbench.nn.compiled import outside_graphs
from workbench.nn.convert import convert_with
from workbench.nn.residual import normed_stream
from workbench.nn.runtime import Runtime

__all__ = ["TransformerBlock"]

#: Activation between the products of the feed-forward part; the gated ones have two inputs.
FEED_FORWARD = {"gelu": ("gelu", False), "silu": ("silu", False), "relu": ("relu", False),
                "swiglu": ("silu", True), "geglu": ("gelu", True)}  # fmt: skip
_LAYERS = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU}
_NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward parts on a 16-bit residual stream.

    Its recipe is one whose codes travel between layers (``jetfire``, ``jetfire-64``,
    ``jetfire-128``).  Queries, keys, values and the output of attention are saved as codes.  Blocks
    of one model share a runtime, so that no two layers draw the same random bits.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        runtime: Runtime,
        *,
        hidden: int | None = None,
        feed_forward: str = "gelu",
        norm: str = "layernorm",
        bias: bool = True,
        dropout: float = 0.0,
        causal: bool = True,
    ) -> None:
        """Make a block with parameters of its own.

        Args:
            width: features of the residual stream, a multiple of 16.
            heads: of attention; they divide the width.
            runtime: of the model, see :func:`workbench.nn.training_runtime`.
            hidden: features between the products of the feed-forward part; default 4 x width.
            feed_forward: gelu, silu, relu, swiglu or geglu.
            norm: layernorm or rmsnorm.
            dropout: of both branches, before they join the stream.
        Raises:
            ValueError: names the argument that does not fit.
        """
        super().__init__()
        if feed_forward not in FEED_FORWARD or norm not in _NORMS:
            raise ValueError(
                f"feed_forward {feed_forward!r}, norm {norm!r}: choose from "
                f"{', '.join(FEED_FORWARD)}, and from {', '.join(_NORMS)}"
            )
        if not runtime.dataflow:
            raise ValueError(
                f"recipe {runtime.recipe.name} keeps no codes between layers: take jetfire"
            )
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        hidden = 4 * width if hidden is None else hidden
        self.heads, self.causal = heads, causal
        self.act, self.gated = FEED_FORWARD[feed_forward]
        self.norm1, self.norm2 = _NORMS[norm](width), _NORMS[norm](width)
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.gate = nn.Linear(width, hidden, bias=bias) if self.gated else None
        self.down = nn.Linear(hidden, width, bias=bias)
        self.activation = None if self.gated else _LAYERS[self.act]()
        self.drop = nn.Dropout(dropout)
        self.runtime = runtime
        done = convert_with(self, runtime)
        # What joins the stream is a number there; only dropout works on codes on the way.
        for layer in (self.out, self.down):
            layer.plain_output = dropout == 0.0  # type: ignore[assignment]
        # Attention saves codes of it, and computes with what they stand for.
        self.qkv.plain_output = not runtime.fused  # type: ignore[assignment]
        # The activation and attention take their gradients as the products leave them.
        self.down.plain_gradient = not self.gated and not runtime.fused  # type: ignore[assignment]
        self.out.plain_gradient = not runtime.fused  # type: ignore[assignment]
        for behind_norm in (self.qkv, self.up, self.gate):  # and so do the norms
            if behind_norm is not None:
                behind_norm.plain_gradient = not runtime.fused  # type: ignore[assignment]
        kept = done.kept
        if kept:
            raise ValueError(f"width {width}, hidden {hidden}: {kept[0].name} has {kept[0].reason}")

    @outside_graphs
    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) bf16, fp16 or fp32 to the same."""
        run = self.runtime
        stream, x = normed_stream(stream, self.norm1, run)
        # No name for what goes in: it would be held until the block's end.
        mixed = attention(self.qkv(x), self.heads, run, causal=self.causal, feeds_product=True)
        branch: torch.Tensor = self.drop(self.out(mixed))
        # A bias has the sum of the gradient's numbers.
        coded = self.out.bias is None
        stream, x = normed_stream(stream, self.norm2, run, branch=branch, feeds_product=coded)
        if self.gate is not None:
            hidden = operators.gated(self.gate(x), self.up(x), self.act, run)
        else:
            assert self.activation is not None
            hidden = self.activation(self.up(x))
        branch = self.drop(self.down(hidden))
        return stream + branch.to(stream.dtype)
