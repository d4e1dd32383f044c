"""The operators of one layer, in the order in which they run.

Two kinds of recipes.  Most leave 16 bits between operators: activations are quantised in front of
every product, gradients in front of every product of the backward pass.  Those of the INT8
dataflow (Jetfire, arXiv 2403.12422) leave codes and scales: products write them, and normalisations
and activations take and leave them (:class:`tiles.problems.Dataflow`); the residual stream and the
attention core stay in 16 bits.
"""

from collections.abc import Iterator

from sim.network.attention import Attention
from sim.network.block import Batch, Block
from sim.network.coded_layer import coded_layer
from sim.network.operators import Operator, Part, Phase
from sim.network.products import codes_between
from sim.network.streaming import Streaming
from sim.network.wide_layer import wide_layer
from tiles.recipes import Recipe

__all__ = ["layer_operators"]

#: Instructions an element of Adam: two moments, a root, a division, the step.
ADAM_INSTRUCTIONS = 20.0


def _optimizer(block: Block, recipe: Recipe) -> Operator:
    """Adam: gradients, moments and kept weights read, moments and weights written."""
    elements = block.parameters
    moments = sum(fmt.element.bits for fmt in recipe.moments) / 8
    kept = recipe.update.bits / 8
    # The copy in 16 bits that products read, or the passes that quantise weights of the INT8
    # dataflow; other quantised ones are made from the kept weights.
    copy = 0.0
    master = recipe.update.master
    wide = recipe.weight if recipe.weight.element.bits == 16 else recipe.residual
    read = recipe.weight.element.bits == 16 or codes_between(recipe)
    if read and master and master.element != wide.element:
        copy = 2.0
    state = elements * (moments + kept)
    return Operator(
        name="adam",
        part=Part.OPTIMIZER,
        phase=Phase.UPDATE,
        work=Streaming(
            name="adam",
            read_bytes=state + elements * recipe.weight_gradient.element.bits / 8,
            written_bytes=state + elements * copy,
            elements=elements,
            instructions=ADAM_INSTRUCTIONS,
            special_functions=2.0,
        ),
    )


def layer_operators(
    block: Block, batch: Batch, recipe: Recipe, *, training: bool
) -> Iterator[Operator]:
    """Every operator of a layer: forward, and with ``training`` backward and the update.

    Raises:
        ValueError: an operator's tensors exceed what a problem may have.
    """
    core = Attention(
        sequences=batch.sequences,
        heads=block.heads,
        kv_heads=block.kv_heads,
        length=batch.length,
        head_dim=block.head_dim,
        causal=block.causal,
    )
    build = coded_layer if codes_between(recipe) else wide_layer
    yield from build(block, batch.tokens, recipe, core, training=training)
    if training:
        yield _optimizer(block, recipe)
