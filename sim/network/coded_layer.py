"""A layer that saves and moves codes between operators: the INT8 dataflow of Jetfire.

Source: arXiv 2403.12422; the launches are those of ``workbench.nn``'s block, as it runs by default.
Its products leave 16 bits, and the pass behind each makes the codes: writing codes from a product
took longer in all (``evidence/h200/README.md``).  Where that pass computes with numbers anyway it
takes them as they are: attention forward, an activation's and a normalisation's gradient, the
residual sums, which also leave codes.  The residual stream and the attention core are 16-bit, only
codes are kept for backward.  Products take K-contiguous codes alone, so backward transposes what
was saved, and quantises the weights once more, turned.
"""

from collections.abc import Iterator
from dataclasses import replace

from sim.network import passes
from sim.network.attention import Attention
from sim.network.block import Block, Linear
from sim.network.operators import Operator, Part, Phase, Work
from sim.network.products import dgrad, forward, nearest, wgrad, wide_name
from sim.network.wide_layer import quantize
from tiles.formats import TensorFormat
from tiles.problems import Dataflow, Dequantize, Gemm, Transpose
from tiles.recipes import Recipe

__all__ = ["coded_layer"]


class _Layer:
    """Makes the operators of one layer."""

    def __init__(self, block: Block, tokens: int, recipe: Recipe, phase: Phase) -> None:
        self.block, self.tokens, self.recipe, self.phase = block, tokens, recipe, phase
        self.wide = wide_name(recipe)
        #: Of codes that operators write: gradients backward.
        self.out = recipe.output if phase is Phase.FORWARD else recipe.gradient
        self.code_bytes = recipe.output.element.bits / 8

    def step(self, name: str, part: Part, work: Work) -> Operator:
        return Operator(name=name, part=part, phase=self.phase, work=work)

    def product(self, name: str, work: Gemm) -> Operator:
        """A product that leaves 16 bits."""
        return self.step(name, Part.PRODUCTS, replace(work, out=self.wide))

    def quantize(self, name: str, cols: int) -> Iterator[Operator]:
        """Codes of a 16-bit tensor; of gradients the transposed ones too."""
        return quantize(
            name,
            self.out,
            (self.tokens, cols),
            phase=self.phase,
            source=self.wide,
            transposed=self.phase is Phase.BACKWARD,
        )

    def weight(self, name: str, shape: tuple[int, int]) -> Iterator[Operator]:
        """Codes of 16-bit weights, kept by no pass for another; ``shape`` as they are written."""
        yield from quantize(
            f"{name} weight",
            self.recipe.weight,
            shape,
            phase=self.phase,
            source=self.wide,
            transposed=False,
        )

    def decode(self, name: str, cols: int, fmt: TensorFormat) -> Operator:
        work = Dequantize(rows=self.tokens, cols=cols, source=nearest(fmt), out=self.wide)
        return self.step(f"{name} dequantize", Part.QUANTIZE, work)

    def turn(self, name: str, cols: int) -> Operator:
        work = Transpose(rows=self.tokens, cols=cols, element=self.recipe.output.element.name)
        return self.step(f"{name} transpose", Part.QUANTIZE, work)

    def norm(self, name: str) -> Operator:
        """Codes to codes; backward numbers to numbers, with the stream's gradient added."""
        work: Work
        if self.phase is Phase.FORWARD:
            op = self.block.normalization.value
            work = Dataflow(rows=self.tokens, cols=self.block.hidden, op=op, target=self.out)
        else:
            work = passes.coded_norm_gradient(self.block, self.tokens, self.code_bytes)
        return self.step(name, Part.NORMALIZATION, work)

    def activation(self, name: str) -> Operator:
        """Codes to codes; backward a gradient in numbers to codes of another."""
        work: Work
        if self.block.gated:  # no kernel takes both halves as codes: bytes alone are known
            work = passes.activation(
                self.block,
                self.tokens,
                bytes_=self.code_bytes,
                backward=self.phase is Phase.BACKWARD,
            )
        elif self.phase is Phase.FORWARD:
            op = self.block.activation.value
            work = Dataflow(rows=self.tokens, cols=self.block.inner, op=op, target=self.out)
        else:
            work = passes.coded_activation_gradient(self.block, self.tokens, self.code_bytes)
        return self.step(name, Part.ACTIVATION, work)


def _forward(block: Block, layer: _Layer, core: Attention, *, training: bool) -> Iterator[Operator]:
    tokens, recipe, wide = layer.tokens, layer.recipe, passes.WIDE

    def linear(one: Linear) -> Iterator[Operator]:
        if training:
            yield from layer.weight(one.name, (one.n, one.k))
        yield layer.product(one.name, forward(one, tokens, recipe))

    qkv, o, up, down = block.linears
    yield from layer.quantize("norm 1 input", block.hidden)
    yield layer.norm("norm 1")
    yield from linear(qkv)
    rounded = passes.rounded(tokens, qkv.n, code_bytes=layer.code_bytes)
    yield layer.step("qkv quantize", Part.QUANTIZE, rounded)
    if block.rotary:
        yield layer.step("rotary", Part.ATTENTION, passes.rotary(block, tokens))
    yield layer.step("attention", Part.ATTENTION, core)
    yield from layer.quantize("attention", o.k)
    yield from linear(o)
    coded = passes.add(block, tokens, branch_bytes=wide, copy_bytes=layer.code_bytes)
    yield layer.step("residual 1", Part.RESIDUAL, coded)
    yield layer.norm("norm 2")
    yield from linear(up)
    yield from layer.quantize(up.name, up.n)
    yield layer.activation("activation")
    yield from linear(down)
    yield layer.step("residual 2", Part.RESIDUAL, passes.add(block, tokens))


def _backward(block: Block, layer: _Layer, core: Attention) -> Iterator[Operator]:
    tokens, recipe = layer.tokens, layer.recipe

    def linear(one: Linear, *, turned: bool) -> Iterator[Operator]:
        """``turned``: the gradient's transposed codes are there already."""
        if not turned:
            yield layer.turn(f"{one.name} gradient", one.n)
        yield layer.turn(f"{one.name} input", one.k)
        yield from layer.weight(f"{one.name} turned", (one.k, one.n))
        yield layer.product(f"{one.name} dgrad", dgrad(one, tokens, recipe))
        yield layer.product(f"{one.name} wgrad", wgrad(one, tokens, recipe))

    qkv, o, up, down = block.linears
    yield from layer.quantize("down gradient", down.n)
    yield from linear(down, turned=True)
    if block.gated:
        yield from layer.quantize("activation gradient", down.k)
    yield layer.activation("activation backward")
    yield from linear(up, turned=False)
    yield layer.norm("norm 2 backward")
    yield from layer.quantize("o gradient", o.n)
    yield from linear(o, turned=True)
    yield layer.decode("qkv", qkv.n, recipe.output)
    yield layer.decode("attention", o.k, recipe.output)
    if block.rotary:  # what was saved is not rotated yet
        yield layer.step("rotary", Part.ATTENTION, passes.rotary(block, tokens))
    yield layer.step("attention backward", Part.ATTENTION, replace(core, backward=True))
    if block.rotary:
        work = passes.rotary(block, tokens, backward=True)
        yield layer.step("rotary backward", Part.ATTENTION, work)
    yield from layer.quantize("qkv gradient", qkv.n)
    yield from linear(qkv, turned=True)
    yield layer.norm("norm 1 backward")


def coded_layer(
    block: Block, tokens: int, recipe: Recipe, core: Attention, *, training: bool
) -> Iterator[Operator]:
    """Forward in order, backward in reverse."""
    forward_layer = _Layer(block, tokens, recipe, Phase.FORWARD)
    yield from _forward(block, forward_layer, core, training=training)
    if training:
        yield from _backward(block, _Layer(block, tokens, recipe, Phase.BACKWARD), core)
