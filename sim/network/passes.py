"""Memory passes that layers of both kinds have, over 16-bit matrices or beside codes.

Bytes are counted from the operands; instructions an element are priors, a few more than the
arithmetic, but those that :data:`CODED_GRADIENT_WORK` counts.
"""

from sim.network.block import Activation, Block
from sim.network.streaming import Streaming

__all__ = [
    "WIDE",
    "activation",
    "add",
    "cast",
    "coded_activation_gradient",
    "coded_norm_gradient",
    "joined",
    "normalization",
    "normalization_sums",
    "rotary",
    "rounded",
]

#: Bytes of a 16-bit element.
WIDE = 2
#: Instructions and special functions an element, forward and backward.
ACTIVATION_WORK = {
    Activation.GELU: ((12.0, 2.0), (18.0, 3.0)),
    Activation.SILU: ((7.0, 2.0), (12.0, 2.0)),
    Activation.RELU: ((2.0, 0.0), (3.0, 0.0)),
}
#: The same of a gradient in numbers by codes, to codes rounded stochastically: instructions of
#: ``tiles/kernels/triton/activation_tiles.py`` compiled for sm_90, over 32 elements a thread.
CODED_GRADIENT_WORK = {
    Activation.GELU: (50.0, 3.0),
    Activation.SILU: (45.0, 2.0),
    Activation.RELU: (41.0, 0.0),
}
NORM_INSTRUCTIONS, NORM_BACKWARD_INSTRUCTIONS = 6.0, 14.0
#: Beside a normalisation's gradient: codes are decoded, the stream's gradient is added.
CODED_NORM_INSTRUCTIONS = 6.0
#: Multiplying the activation by the other half, and what that adds backward.
GATE_INSTRUCTIONS, GATE_BACKWARD_INSTRUCTIONS = 1.0, 4.0
ADD_INSTRUCTIONS, ROTARY_INSTRUCTIONS, CAST_INSTRUCTIONS = 2.0, 5.0, 3.0
SUM_INSTRUCTIONS, COPY_INSTRUCTIONS = 6.0, 1.0
#: Largest magnitude, division, rounding, and the product with the scale.
ROUNDED_INSTRUCTIONS = 14.0


def normalization(
    block: Block, rows: int, *, bytes_: float = WIDE, backward: bool = False
) -> Streaming:
    """x to y; backward x and dy to dx.  The vectors of a row and of a column are small."""
    matrix = rows * block.hidden * bytes_
    return Streaming(
        name=block.normalization.value + ("-bwd" if backward else ""),
        read_bytes=matrix * (2 if backward else 1),
        written_bytes=matrix,
        elements=rows * block.hidden,
        instructions=NORM_BACKWARD_INSTRUCTIONS if backward else NORM_INSTRUCTIONS,
    )


def normalization_sums(block: Block, rows: int) -> Streaming:
    """Gradients of the vectors of a column: x and dy once more, summed over rows.

    Torch launches it behind the gradient of x, which goes row by row.
    """
    return Streaming(
        name=f"{block.normalization.value}-sums",
        read_bytes=2 * rows * block.hidden * WIDE,
        written_bytes=block.normalization.vectors * block.hidden * WIDE,
        elements=rows * block.hidden,
        instructions=SUM_INSTRUCTIONS,
    )


def coded_norm_gradient(block: Block, rows: int, code_bytes: float) -> Streaming:
    """Codes of x, and in numbers dy and the residual stream's gradient, to the latter's sum."""
    elements = rows * block.hidden
    return Streaming(
        name=f"{block.normalization.value}-bwd-add",
        read_bytes=elements * (code_bytes + 2 * WIDE),
        written_bytes=elements * WIDE,
        elements=elements,
        instructions=NORM_BACKWARD_INSTRUCTIONS + CODED_NORM_INSTRUCTIONS,
    )


def coded_activation_gradient(block: Block, rows: int, code_bytes: float) -> Streaming:
    """Codes of x and dy in numbers to codes of dx."""
    instructions, special = CODED_GRADIENT_WORK[block.activation]
    elements = rows * block.inner
    return Streaming(
        name=f"{block.activation.value}-bwd",
        read_bytes=elements * (code_bytes + WIDE),
        written_bytes=elements * code_bytes,
        elements=elements,
        instructions=instructions,
        special_functions=special,
    )


def activation(
    block: Block, rows: int, *, bytes_: float = WIDE, backward: bool = False
) -> Streaming:
    """The features of the first product to ``inner`` ones; backward with dy to their gradient."""
    instructions, special = ACTIVATION_WORK[block.activation][backward]
    if block.gated:
        instructions += GATE_BACKWARD_INSTRUCTIONS if backward else GATE_INSTRUCTIONS
    wide, narrow = rows * block.up_width * bytes_, rows * block.inner * bytes_
    name = block.activation.value + ("-glu" if block.gated else "")
    return Streaming(
        name=name + ("-bwd" if backward else ""),
        read_bytes=wide + (narrow if backward else 0),
        written_bytes=wide if backward else narrow,
        elements=rows * block.inner,
        instructions=instructions,
        special_functions=special,
    )


def add(block: Block, rows: int, *, branch_bytes: float = WIDE, copy_bytes: float = 0) -> Streaming:
    """Stream plus branch to the stream, and a copy of it where ``copy_bytes`` an element are."""
    elements = rows * block.hidden
    return Streaming(
        name="add",
        read_bytes=elements * (WIDE + branch_bytes),
        written_bytes=elements * (WIDE + copy_bytes),
        elements=elements,
        instructions=ADD_INSTRUCTIONS,
    )


def rotary(block: Block, rows: int, *, backward: bool = False) -> Streaming:
    """Queries and keys turned by their place, in place."""
    elements = rows * (block.heads + block.kv_heads) * block.head_dim
    return Streaming(
        name="rotary-bwd" if backward else "rotary",
        read_bytes=elements * WIDE,
        written_bytes=elements * WIDE,
        elements=elements,
        instructions=ROTARY_INSTRUCTIONS,
    )


def cast(rows: int, cols: int, *, read_bytes: float, bits: int, copies: int) -> Streaming:
    """A matrix rounded to an element without scales, as stored and transposed with 2 copies."""
    elements = rows * cols
    return Streaming(
        name="cast",
        read_bytes=elements * read_bytes,
        written_bytes=copies * elements * bits / 8,
        elements=elements,
        instructions=CAST_INSTRUCTIONS * copies,
    )


def joined(rows: int, cols: int) -> Streaming:
    """Gradients of queries, keys and values side by side, as the joint projection wrote those."""
    elements = rows * cols
    return Streaming(
        name="join",
        read_bytes=elements * WIDE,
        written_bytes=elements * WIDE,
        elements=elements,
        instructions=COPY_INSTRUCTIONS,
    )


def rounded(rows: int, cols: int, *, code_bytes: float) -> Streaming:
    """Codes of a 16-bit matrix, and the 16-bit numbers that they stand for."""
    elements = rows * cols
    return Streaming(
        name="quantize-rounded",
        read_bytes=elements * WIDE,
        written_bytes=elements * (code_bytes + WIDE),
        elements=elements,
        instructions=ROUNDED_INSTRUCTIONS,
    )
