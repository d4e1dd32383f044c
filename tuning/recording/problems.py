"""What a data set is recorded of: shapes, recipes and kernels that pass over memory once.

Shapes are stratified: rows of three regimes (decode, middle, prefill) times depths of three
(shallow, usual, deep), four shapes a cell, and eight odd ones.  Sides are those of layers in use.
The seed chooses among them and their order.
"""

from dataclasses import dataclass

import numpy as np

from tiles.problems import Gemm, Problem, parse_problem
from tiles.recipes import recipe

__all__ = ["RECIPES", "WARM_RECIPES", "Shape", "others", "products", "shapes", "streams"]

#: Sixteen bits, FP8 and INT8 with a scale a row, scales in blocks of both, packed weights, MX.
RECIPES = (
    *("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "jetfire"),
    *("w4a16-g128", "mxfp8-e4m3"),
)
#: Of every fourth shape, some configurations of these once more with a warm L2.
WARM_RECIPES = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row")
ROWS = {
    "decode": (1, 8, 16, 32, 64),
    "middle": (128, 256, 512, 1024),
    "prefill": (2048, 4096, 8192, 16_384),
}
#: N and K.
SIDES = {
    "shallow": ((8192, 256), (1024, 384), (4096, 512), (3072, 768)),
    "usual": ((4096, 4096), (6144, 4096), (7168, 2048), (24_576, 1536), (2048, 1024)),
    "deep": ((4096, 14_336), (2112, 7168), (8192, 8192), (7168, 16_384), (1536, 7168)),
}
#: No extent fits a tile, rows of some do not lie on 16 bytes.
ODD = (
    *((1000, 1030, 520), (77, 4104, 1032), (3, 5000, 3080), (300, 300, 2056)),
    *((4097, 2050, 1544), (2500, 4100, 5128), (129, 8200, 520), (33, 1032, 9224)),
)
PER_CELL = 4
#: A slow configuration of a larger product takes longer than it tells.
MOST_FLOPS = 1.2e12
#: Cells whose first shape is searched whole or with at least 150 configurations.
ANCHORS = 8
_TARGETS = (
    *("int8.row", "int8.b32x32", "e4m3fn.row", "e4m3fn.b1x128", "e4m3fn.mx", "nvfp4"),
    *("int8.b32x32+sr", "int8.b128x128"),
)
_TRANSPOSED = ("int8.b32x32", "int8.b128x128")
_OPERATORS = ("gelu", "silu-bwd", "residual", "layernorm", "layernorm-bwd", "rmsnorm")
#: Rows and columns, from what the launch dominates to what only DRAM limits; some ragged.
_MATRICES = (
    *((64, 4096), (1024, 4096), (4096, 4096), (8192, 8192), (16_384, 4096), (2048, 14_336)),
    *((1000, 5120), (333, 7168)),
)
#: What a layer of a mixture of experts, attention and outliers multiply: their families serve no
#: plain product.
_OTHERS = (
    "grouped_gemm:8x4096x4096x2048:deepseek-fp8:contiguous:bf16",
    "grouped_gemm:8x1000x2048x4096:deepseek-fp8:contiguous:bf16",
    "grouped_gemm:32x8192x1536x2048:deepseek-fp8:padded.128:bf16",
    "grouped_gemm:64x2048x2048x7168:deepseek-fp8:masked.512:bf16",
    "grouped_gemm:8x4096x4096x2048:int8-b1x128:contiguous:bf16",
    "grouped_gemm:8x4096x4096x2048:bf16:contiguous:bf16",
    "batched_gemm:128x512x512x64:e4m3-tensor:nk:bf16",
    "batched_gemm:128x512x64x512:e4m3-tensor:kn:bf16",
    "batched_gemm:64x1024x1024x128:int8-row:nk:bf16",
    "batched_gemm:64x1024x128x1024:bf16:kn:bf16",
    "gemm:4096x4096x4096:llm-int8:bf16",
    "gemm:128x7168x2048:int8-fallback:bf16",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The extents of a product."""

    m: int
    n: int
    k: int
    cell: str  #: regime of rows and depth, or "odd"
    anchor: bool = False  #: its studies are deep

    def problem(self, name: str) -> Gemm:
        """The product under a recipe."""
        return Gemm(m=self.m, n=self.n, k=self.k, recipe=recipe(name))


def shapes(seed: int) -> list[Shape]:
    """All shapes, in an order whose beginnings are spread; every fourth is an anchor at first."""
    rng = np.random.default_rng(seed)
    cells = [(rows, depth) for rows in ROWS for depth in SIDES]
    drawn = {cell: _cell(*cell, rng) for cell in cells}
    # Few rows and little depth leave nothing to choose: the launch is all there is.
    able = [cell for cell in cells if cell != ("decode", "shallow")]
    order = [able[place] for place in rng.permutation(len(able))]
    anchors = [Shape(*drawn[cell][0], cell=" ".join(cell), anchor=True) for cell in order[:ANCHORS]]
    plain = [
        Shape(*extents, cell=" ".join(cell))
        for turn in range(PER_CELL)
        for cell in (cells[place] for place in rng.permutation(len(cells)))
        for extents in drawn[cell][turn : turn + 1]
        if turn or cell not in order[:ANCHORS]
    ]
    odd = [Shape(*ODD[place], cell="odd") for place in rng.permutation(len(ODD))]
    for place, one in enumerate(odd):
        plain.insert(1 + place * 4, one)
    found: list[Shape] = []
    while anchors or plain:
        found += [*anchors[:1], *plain[:3]]
        anchors, plain = anchors[1:], plain[3:]
    return found


def _cell(regime: str, depth: str, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Extents of one cell: rows and sides as different as there are."""
    rows, sides = ROWS[regime], SIDES[depth]
    first = int(rng.integers(len(rows)))
    order = rng.permutation(len(sides))[:PER_CELL]
    found = []
    for place, side in enumerate(order.tolist()):
        n, k = sides[side]
        able = [m for m in rows if 2.0 * m * n * k <= MOST_FLOPS]
        found.append((able[(first + place) % len(able)], n, k))
    return found


def products(shape: Shape) -> list[tuple[str, Problem]]:
    """A shape under every recipe."""
    return [(name, shape.problem(name)) for name in RECIPES]


def others(seed: int) -> list[Problem]:
    """Products of experts, of a batch and with outliers apart, in a spread order."""
    found = [parse_problem(text) for text in _OTHERS]
    order = np.random.default_rng([seed, 2]).permutation(len(found))
    return [found[place] for place in order]


def streams(seed: int) -> list[Problem]:
    """Quantising, dequantising, transposing and the INT8 dataflow, in a spread order."""
    texts = [
        *(f"quantize:{{}}:{target}:bf16" for target in _TARGETS),
        *(f"quantize:{{}}:{target}:bf16:transposed" for target in _TRANSPOSED),
        *(f"dequantize:{{}}:{target}:bf16" for target in _TARGETS[1:6:2]),
        "transpose:{}:int8",
        *(f"dataflow:{{}}:{name}:int8.b32x32+sr" for name in _OPERATORS),
    ]
    found = [
        parse_problem(text.format(f"{rows}x{cols}")) for text in texts for rows, cols in _MATRICES
    ]
    order = np.random.default_rng([seed, 1]).permutation(len(found))
    return [found[place] for place in order]
