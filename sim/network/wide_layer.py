"""A layer with 16 bits between its operators: what most recipes run.

Attention, normalisations and what joins gradients are launched as torch launches them.
"""

from collections.abc import Iterator
from dataclasses import replace

from sim.network import passes
from sim.network.attention import Attention
from sim.network.block import Block, Linear
from sim.network.operators import Operator, Part, Phase, Work
from sim.network.products import dgrad, forward, wgrad, wide_name
from tiles.formats import TensorFormat
from tiles.problems import Quantize
from tiles.recipes import Recipe

__all__ = ["quantize", "wide_layer"]


def quantize(
    name: str,
    fmt: TensorFormat,
    shape: tuple[int, int],
    *,
    phase: Phase,
    source: str,
    transposed: bool,
) -> Iterator[Operator]:
    """What brings a matrix into the format of a product; nothing where 16 bits are multiplied."""
    rows, cols = shape
    work: Work
    if fmt.scaling is not None:
        work = Quantize(rows=rows, cols=cols, target=fmt, source=source, transposed=transposed)
    elif fmt.element.bits < 16:
        read = 4 if source == "fp32" else passes.WIDE
        copies = 2 if transposed else 1
        work = passes.cast(rows, cols, read_bytes=read, bits=fmt.element.bits, copies=copies)
    else:
        return
    yield Operator(name=f"{name} quantize", part=Part.QUANTIZE, phase=phase, work=work)


def _linear_forward(
    linear: Linear, tokens: int, recipe: Recipe, *, training: bool
) -> Iterator[Operator]:
    """Training keeps no codes between steps and needs W^T and X^T for backward."""
    wide, step = wide_name(recipe), Phase.FORWARD
    yield from quantize(
        f"{linear.name} input",
        recipe.activation,
        (tokens, linear.k),
        phase=step,
        source=wide,
        transposed=training,
    )
    master = recipe.update.master
    if training and master is not None:
        yield from quantize(
            f"{linear.name} weight",
            recipe.weight,
            (linear.n, linear.k),
            phase=step,
            source=master.element.name,
            transposed=True,
        )
    yield Operator(
        name=linear.name, part=Part.PRODUCTS, phase=step, work=forward(linear, tokens, recipe)
    )


def _linear_backward(linear: Linear, tokens: int, recipe: Recipe) -> Iterator[Operator]:
    yield from quantize(
        f"{linear.name} gradient",
        recipe.gradient,
        (tokens, linear.n),
        phase=Phase.BACKWARD,
        source=wide_name(recipe),
        transposed=True,
    )
    for name, product in (("dgrad", dgrad), ("wgrad", wgrad)):
        yield Operator(
            name=f"{linear.name} {name}",
            part=Part.PRODUCTS,
            phase=Phase.BACKWARD,
            work=product(linear, tokens, recipe),
        )


def wide_layer(
    block: Block, tokens: int, recipe: Recipe, core: Attention, *, training: bool
) -> Iterator[Operator]:
    """Forward in order, backward in reverse."""
    qkv, o, up, down = block.linears
    norm = Part.NORMALIZATION

    def step(name: str, part: Part, work: Work, phase: Phase = Phase.FORWARD) -> Operator:
        return Operator(name=name, part=part, phase=phase, work=work)

    yield step("norm 1", norm, passes.normalization(block, tokens))
    yield from _linear_forward(qkv, tokens, recipe, training=training)
    if block.rotary:
        yield step("rotary", Part.ATTENTION, passes.rotary(block, tokens))
    yield step("attention", Part.ATTENTION, core)
    yield from _linear_forward(o, tokens, recipe, training=training)
    yield step("residual 1", Part.RESIDUAL, passes.add(block, tokens))
    yield step("norm 2", norm, passes.normalization(block, tokens))
    yield from _linear_forward(up, tokens, recipe, training=training)
    yield step("activation", Part.ACTIVATION, passes.activation(block, tokens))
    yield from _linear_forward(down, tokens, recipe, training=training)
    yield step("residual 2", Part.RESIDUAL, passes.add(block, tokens))
    if not training:
        return

    back = Phase.BACKWARD
    yield from _linear_backward(down, tokens, recipe)
    work: Work = passes.activation(block, tokens, backward=True)
    yield step("activation backward", Part.ACTIVATION, work, back)
    yield from _linear_backward(up, tokens, recipe)
    work = passes.normalization(block, tokens, backward=True)
    yield step("norm 2 backward", norm, work, back)
    yield step("norm 2 vectors", norm, passes.normalization_sums(block, tokens), back)
    yield step("residual 2 backward", Part.RESIDUAL, passes.add(block, tokens), back)
    yield from _linear_backward(o, tokens, recipe)
    yield step("attention backward", Part.ATTENTION, replace(core, backward=True), back)
    if block.rotary:
        work = passes.rotary(block, tokens, backward=True)
        yield step("rotary backward", Part.ATTENTION, work, back)
    yield step("qkv gradient join", Part.ATTENTION, passes.joined(tokens, qkv.n), back)
    yield from _linear_backward(qkv, tokens, recipe)
    work = passes.normalization(block, tokens, backward=True)
    yield step("norm 1 backward", norm, work, back)
    yield step("norm 1 vectors", norm, passes.normalization_sums(block, tokens), back)
    yield step("residual 1 backward", Part.RESIDUAL, passes.add(block, tokens), back)
