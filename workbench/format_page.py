"""The page ``docs/formats.md``: ``python -m workbench.format_page > docs/formats.md``."""

from collections.abc import Iterable, Sequence

from tiles.formats import ELEMENTS, SCALE_ELEMENTS, TensorFormat
from tiles.recipes import RECIPES
from workbench.format_facts import (
    ELEMENT_COLUMNS,
    EXTENT,
    RECIPE_COLUMNS,
    ROUNDINGS,
    RULES,
    bits_per_element,
    element_cells,
    recipe_cells,
    scale_cells,
)

__all__ = ["format_page"]

#: Tensor formats that show every part of the notation.
EXAMPLES = (
    ("bf16", "plain"),
    ("e4m3fn", "plain: a direct cast"),
    ("e4m3fn.tensor", "one fp32 scale"),
    ("e4m3fn.row+p99.9", "a scale a row, from its 99.9th percentile"),
    ("int8.b32x32+sr", "blocks of 32 x 32, rounded stochastically"),
    ("int8.b32x32+fp16", "the same blocks, fp16 scales"),
    ("e4m3fn.mx+rceil", "MXFP8 with scales rounded up"),
    ("nvfp4", "e2m1fn in 1 x 16 blocks under two levels of scales"),
    ("int4.g128", "groups of 128 along K, fp16 scales"),
    ("uint4.g128", "the same with a zero point a group"),
    ("nf4.g64", "a codebook"),
    ("ffp8_e3m4b5.tensor+pow2", "free split and bias, the scale a power of two"),
)

SCALINGS = (
    ("`tensor`", "the whole matrix", "1 x 1", "fp32"),
    ("`row`", "a row: a token of activations, an output channel of weights", "R x 1", "fp32"),
    ("`col`", "a column: an index along K", "1 x C", "fp32"),
    ("`b<r>x<c>`", "r x c, e.g. `b1x128`, `b128x128`, `b32x32`", "ceil(R/r) x ceil(C/c)", "fp32"),
    ("`g<c>`", "1 x c, a group along K", "R x ceil(C/c)", "fp16"),
    ("`mx`", "1 x 32, OCP microscaling", "R x ceil(C/32)", "e8m0fnu"),
)

INTRODUCTION = """\
# Formats and recipes

Made from the code by `python -m workbench.format_page > docs/formats.md`; do not edit it here.
`workbench formats` prints the same tables; [conventions.md](conventions.md) says how values become
codes.

A tensor format is an element, or `element.scaling`, with details behind `+`: a scale format, a
scale rule, `two-level`, a rounding, `nosat`. Columns of a scaling run along K, the contraction. A
recipe names the formats of a linear layer's tensors.
"""

ELEMENT_NOTES = """\
Floats are sign, exponent E, mantissa M of m bits: `±2^(E - bias) (1 + M/2^m)`, and
`±2^(1 - bias) M/2^m` for `E = 0`. *min subnormal* is the smallest positive value of any element,
*eps* the distance from 1 to the next value (of integers: between any two). *NaN* and *Inf* are the
codes that a NaN and plus infinity take. An element without infinity saturates; one without NaN
stores zero in its place. `e4m3fn` is the E4M3 that ends at 448, `e3m4fn` the E3M4 that ends at 30;
`e4m3` (240) and `e3m4` (15.5) follow IEEE 754.

Beyond the table, a name spells out a float: `e<E>m<M>[b<bias>]` has IEEE rules, with `fn` only the
all-ones codes are NaN (below a byte none, as in OCP MX), with `fnuz` only the code of minus zero
is; `ffp8_[u]e<E>m<M>[b<bias>]` has eight bits, all finite, `u` without sign; `[u]int<N>` is an
integer of 2 to 16 bits (symmetric ones below a byte are stored plus 2^(N-1), as `int4` is; zero
points go up to `uint8`), `posit<N>es<E>` a posit of 3 to 16 bits. Other distributions add elements
under the entry point group `tile_workbench.formats`: the entry's name is the element's, its value
an `ElementFormat`.
"""

PACKING = """\
- 8, 16 and 32 bits: one element a byte, half word or word; tf32 lies in fp32 words.
- 4 bits: two a byte, the even element in the low nibble: `[N, K/2]`. `int4` is stored plus 8.
- 6 bits: four elements in three bytes, little-endian: element i in bits 6i to 6i + 5.
- Every row starts on a byte of its own; group scales and zero points lie along K: `[N, ceil(K/g)]`.
- Scales of 1xB blocks are stored with rows contiguous, padded to 4, all others row-major. For
  block-scaled tensor cores MX and NVFP4 scales lie in tiles of 128 x 4 (`swizzle_scales`).
- `tiles.formats.packing` packs and unpacks; kernels take 8- and 16-bit elements, which need none.
"""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    # A bar inside a cell would end it.
    return "\n".join(
        f"| {' | '.join(c.replace('|', chr(92) + '|') for c in row)} |" for row in lines
    )


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *(part.strip() for part in parts)])


def _code(text: str) -> str:
    return f"`{text}`"


def _bits(text: str) -> str:
    return f"{bits_per_element(TensorFormat.parse(text)):.6g}"


def format_page() -> str:
    """The whole page, with a newline at its end."""
    elements = ([_code(cells[0]), *cells[1:]] for cells in map(element_cells, ELEMENTS.values()))
    scales = ([_code(cells[0]), *cells[1:]] for cells in map(scale_cells, SCALE_ELEMENTS.values()))
    recipes = [recipe_cells(one) for one in RECIPES.values()]
    sources = (
        (
            _code(one.name),
            _bits(str(one.activation)),
            _bits(str(one.weight)),
            "-" if one.outliers is None else str(one.outliers),
            one.source,
        )
        for one in RECIPES.values()
    )
    parts = (
        INTRODUCTION.strip(),
        _table(
            ("example", "bits an element", "is"),
            ((_code(text), _bits(text), says) for text, says in EXAMPLES),
        ),
        f"Bits an element are those stored for a {EXTENT} x {EXTENT} matrix, scales included.",
        _section("Elements", _table(ELEMENT_COLUMNS, elements), ELEMENT_NOTES),
        _section(
            "Scalings",
            _table(("name", "elements under one scale", "grid of R x C", "scales"), SCALINGS),
            "`+two-level` adds an fp32 scale of the whole tensor above e4m3fn block scales: "
            "`nvfp4` is `e2m1fn.b1x16+e4m3fn+two-level`.",
        ),
        _section("Scale formats", _table(("name", "bits", "max", "min", "special values"), scales)),
        _section(
            "Scale rules",
            _table(("rule", "scale of a block"), ((_code(r.value), t) for r, t in RULES.items())),
            "`p` is written with its percentile, at least 50 and below 100: `+p99.9`. The last "
            "four choose the exponent of an `e8m0fnu` scale, `floor` where none is named; the "
            "others belong to scales that are floats, `absmax` where none is named. Refused are: "
            "other rules than `absmax` beside zero points, `pow2` beside two levels, `mse` and `p` "
            "beside `nosat`, `e8m0fnu` scales of codebooks, and scales of posits.",
        ),
        _section(
            "Roundings",
            _table(("name", "a value goes"), ((_code(r.value), t) for r, t in ROUNDINGS.items())),
            "Numbers beyond the range saturate; with `+nosat` they become infinity, or NaN where "
            "the element has none (what rounds toward zero stays finite). Scales always saturate. "
            "Posits go to the nearer side of the posit with one bit more "
            "(Posit Standard 2022, section 4), codebooks to the nearest entry.",
        ),
        _section("Packing", PACKING),
        _section(
            "Recipes",
            _table(RECIPE_COLUMNS, ([_code(c[0]), *c[1:]] for c in recipes)),
            "*update* is the format in which training keeps the weights: `+kahan` with a "
            "compensation of the same format, `+sr` rounded stochastically. Recipes for inference "
            "say so, and have no gradients. Kernels serve part of these: `workbench predict "
            "--recipe NAME` says which, and why not.",
            _table(("recipe", "bits A", "bits W", "outliers", "source"), sources),
        ),
    )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(format_page(), end="")
