"""Memory of a network: weights, gradients, optimiser state, and what a step needs besides.

Closed forms of the formats.  *Activations* are the tensors that forward leaves for backward, of
all layers; *working* is the most that backward needs beside them at any operator of one layer:
gradients, codes and their transposed copies, one weight gradient.  Left out: what an allocator
wastes, workspaces of libraries, and everything outside the layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sim.network.attention import BYTES, Attention
from sim.network.block import Batch, Block, Linear, Network
from sim.network.products import codes_between
from tiles.formats import TensorFormat
from tiles.recipes import Recipe

__all__ = ["Memory", "network_memory", "saved_tensors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a network's layers on one GPU."""

    weights: int  #: as products read them; training quantised ones a second time, transposed
    gradients: int  #: of the weights
    optimizer: int  #: kept weights that products do not read themselves, and Adam's moments
    activations: int  #: saved for backward, all layers; 0 in inference
    working: int  #: the most that one operator needs besides

    @property
    def step(self) -> int:
        """What a step allocates above weights, gradients and optimiser state."""
        return self.activations + self.working

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.step


class _Sizes:
    """Bytes of a layer's matrices of ``tokens`` rows."""

    def __init__(self, tokens: int, recipe: Recipe) -> None:
        self.tokens, self.recipe = tokens, recipe

    def wide(self, cols: int) -> int:
        """16-bit."""
        return BYTES * self.tokens * cols

    def codes(self, fmt: TensorFormat, cols: int) -> int:
        """As stored."""
        return fmt.storage_bytes(self.tokens, cols)

    def turned(self, fmt: TensorFormat, cols: int) -> int:
        """The transposed copy."""
        return fmt.storage_bytes(cols, self.tokens)

    def narrow(self, fmt: TensorFormat) -> bool:
        """Whether products take the tensor as codes."""
        return fmt.element.bits < 16

    def between(self, cols: int) -> int:
        """A tensor between two operators of the forward pass."""
        if codes_between(self.recipe):
            return self.codes(self.recipe.output, cols)
        return self.wide(cols)

    def gradient_between(self, cols: int) -> int:
        """The same of the backward pass."""
        if codes_between(self.recipe):
            return self.codes(self.recipe.gradient, cols)
        return self.wide(cols)


def saved_tensors(block: Block, batch: Batch, recipe: Recipe) -> dict[str, int]:
    """Bytes of every tensor that one layer keeps for its backward pass, in forward order.

    A product keeps what wgrad reads: its input, quantised and transposed where it multiplies
    codes.  A normalisation keeps its input and a row's statistics, an activation its input,
    attention its operands, its output and the softmax's statistics.  What several operators
    read is kept once.
    """
    sizes = _Sizes(batch.tokens, recipe)
    coded = codes_between(recipe)

    def kept(cols: int) -> int:
        """Of a product's input."""
        if coded or not sizes.narrow(recipe.activation):
            return sizes.between(cols)
        return sizes.turned(recipe.activation, cols)

    core = Attention(
        sequences=batch.sequences,
        heads=block.heads,
        kv_heads=block.kv_heads,
        length=batch.length,
        head_dim=block.head_dim,
        causal=block.causal,
    )
    statistics = 4 * block.normalization.vectors * batch.tokens
    qkv, o, up, down = block.linears
    attention_output = {"attention output": sizes.wide(o.k)}
    if coded or not sizes.narrow(recipe.activation):
        attention_output = {}  # what the next product keeps serves both
    return {
        "norm 1 input": sizes.between(block.hidden) + statistics,
        "qkv input": kept(qkv.k),
        "attention operands": sizes.between(qkv.n) + core.statistics_bytes,
        **attention_output,
        "o input": kept(o.k),
        "norm 2 input": sizes.between(block.hidden) + statistics,
        "up input": kept(up.k),
        "activation input": sizes.between(up.n),
        "down input": kept(down.k),
    }


def _linear_working(linear: Linear, sizes: _Sizes, *, own_gradient: bool) -> int:
    """Backward of a product: gradient in and out, codes of both operands, the weight gradient.

    ``own_gradient``: the gradient is a tensor of its own, not the residual stream's.
    """
    recipe = sizes.recipe
    arriving = sizes.gradient_between(linear.n) if own_gradient else 0
    leaving = sizes.gradient_between(linear.k)
    leaving += recipe.residual.element.bits // 8 * linear.n * linear.k
    if not sizes.narrow(recipe.gradient):
        return arriving + leaving
    turned = sizes.turned(recipe.gradient, linear.n)
    if codes_between(recipe):
        here = arriving or sizes.codes(recipe.gradient, linear.n)
        return here + turned + sizes.turned(recipe.activation, linear.k) + leaving
    codes = sizes.codes(recipe.gradient, linear.n) + turned
    return codes + max(arriving, leaving)


def _backward_steps(
    block: Block, sizes: _Sizes, saved: dict[str, int]
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every operator of backward: bytes it needs, and what was saved for it alone."""
    qkv, o, up, down = block.linears
    between = sizes.gradient_between
    attention = between(o.k) + sizes.wide(qkv.n) + 2 * sizes.wide(o.k)  # fp32 sums of dQ
    if codes_between(sizes.recipe):
        attention += sizes.wide(qkv.n) + 2 * sizes.wide(o.k)  # operands and both outputs, decoded
    kept_for_attention = tuple(
        name for name in ("attention operands", "attention output") if name in saved
    )
    norm = 2 * between(block.hidden)
    yield _linear_working(down, sizes, own_gradient=False), ("down input",)
    yield between(block.inner) + between(up.n), ("activation input",)
    yield _linear_working(up, sizes, own_gradient=True), ("up input",)
    yield norm, ("norm 2 input",)
    yield _linear_working(o, sizes, own_gradient=False), ()
    yield attention, (*kept_for_attention, "o input")
    yield _linear_working(qkv, sizes, own_gradient=True), ("qkv input",)
    yield norm, ("norm 1 input",)


def _working(block: Block, sizes: _Sizes, saved: dict[str, int]) -> int:
    """The most that backward of one layer holds above what forward has saved."""
    left, most = 0, 0
    for needed, released in _backward_steps(block, sizes, saved):
        most = max(most, left + needed + sizes.wide(block.hidden))
        left -= sum(saved[name] for name in released)
    return most


def _weights(block: Block, recipe: Recipe, *, training: bool) -> int:
    """Of one layer, as products read them; biases and normalisations in 16 bits."""
    fmt = recipe.weight
    size = BYTES * block.vector_weights
    for linear in block.linears:
        size += fmt.storage_bytes(linear.n, linear.k)
        if training and fmt.element.bits < 16:
            size += fmt.storage_bytes(linear.k, linear.n)
    return size


def network_memory(
    network: Network, batch: Batch, recipe: Recipe, *, training: bool = False
) -> Memory:
    """Memory of all layers under a recipe.

    Args:
        training: with gradients, optimiser state and what is saved for backward; without it, a
            forward pass alone.
    """
    block, layers = network.block, network.layers
    sizes = _Sizes(batch.tokens, recipe)
    weights = layers * _weights(block, recipe, training=training)
    if not training:
        widest = max(sizes.between(linear.n) + sizes.between(linear.k) for linear in block.linears)
        return Memory(
            weights=weights,
            gradients=0,
            optimizer=0,
            activations=0,
            working=sizes.wide(block.hidden) + widest,
        )
    state_bits = recipe.update.bits + sum(fmt.element.bits for fmt in recipe.moments)
    master = recipe.update.master
    if master is not None and master.element == recipe.weight.element:
        state_bits -= master.element.bits  # products read the kept weights themselves
    saved = saved_tensors(block, batch, recipe)
    return Memory(
        weights=weights,
        gradients=network.parameters * recipe.weight_gradient.element.bits // 8,
        optimizer=network.parameters * state_bits // 8,
        activations=layers * sum(saved.values()),
        working=_working(block, sizes, saved),
    )
