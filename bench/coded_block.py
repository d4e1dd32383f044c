"""A transformer block of ``workbench.nn`` with the extents that the cost model is given."""

from typing import TYPE_CHECKING, TypedDict

from sim.network import Activation, Block, Normalization

if TYPE_CHECKING:
    import torch

__all__ = ["CODED", "coded_block"]

#: Recipes whose codes travel between the layers.
RECIPES = ("jetfire", "jetfire-64", "jetfire-128")


class Options(TypedDict, total=False):
    """Of ``workbench.nn.training_runtime``."""

    fused: bool
    keep_weights: bool


#: What is asked of the runtime besides its defaults.
OPTIONS: dict[str, Options] = {
    "": {},
    "-fused": {"fused": True},
    "-kept": {"keep_weights": True},
}
#: A recipe with options, as a variant is called.
CODED = tuple(f"{recipe}{option}" for recipe in RECIPES for option in OPTIONS)
_ACTIVATIONS = {Activation.GELU: "gelu", Activation.SILU: "silu", Activation.RELU: "relu"}
_GATED = {Activation.GELU: "geglu", Activation.SILU: "swiglu"}


def coded_block(block: Block, variant: str, *, device: str) -> "torch.nn.Module":
    """The block of a variant of ``CODED``, with bf16 parameters, no biases and no dropout.

    A training step of it may be captured in a CUDA graph.

    Raises:
        RuntimeError: ``workbench.nn`` has no such block.
    """
    import torch

    from workbench.nn import TransformerBlock, training_runtime

    names = _GATED if block.gated else _ACTIVATIONS
    if block.rotary or block.heads != block.kv_heads or block.activation not in names:
        raise RuntimeError(
            "workbench.nn's block rotates nothing, has as many heads of keys as of queries, and "
            f"knows {', '.join(one.value for one in names)}, not {block.activation.value}"
        )
    option = max((end for end in OPTIONS if variant.endswith(end)), key=len)
    recipe = variant.removesuffix(option)
    torch.manual_seed(0)
    made = TransformerBlock(
        block.hidden,
        block.heads,
        training_runtime(recipe, replayable=True, **OPTIONS[option]),
        hidden=block.inner,
        feed_forward=names[block.activation],
        norm="rmsnorm" if block.normalization is Normalization.RMS else "layernorm",
        bias=False,
        causal=block.causal,
    )
    return made.bfloat16().to(device)
