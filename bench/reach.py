"""The rows of the table of ratios: which problems belong to each, who the peers are, what is asked.

A ratio is the time of the fastest peer over ours.  Where a row has a bound, it is the longer of
that peer's time and the bound's over ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim import Gpu
from tiles.formats import IntElement, Rounding, element
from tiles.kernels import TileConfig
from tiles.problems import Dataflow, Dequantize, Gemm, GroupedGemm, Problem, Quantize, Transpose

__all__ = ["ROWS", "SHAPES", "Goal", "Row", "row_of"]

#: (M, N, K) of the products: squares, layers of Llama-3 and DeepSeek-V3, and decoding.
SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (4096, 14336, 4096),
    (4096, 4096, 14336),
    (4096, 7168, 16384),
    (4096, 2112, 7168),
    (16384, 4096, 1024),
    (2048, 3072, 768),
    (128, 7168, 2048),
    (64, 24576, 1536),
    (16, 8192, 8192),
)
#: Bytes from which a matrix counts as large: it does not fit in any GPU's L2.
LARGE_BYTES = 64 * 2**20

MATMUL = "torch.matmul bf16"
MATMUL_WGRAD = "torch.matmul bf16, weight gradient"
TENSOR = "torch._scaled_mm tensor, fast accumulation"
ROW = "torch._scaled_mm row, fast accumulation"
BLOCK = "torch._scaled_mm 1x128 by 128x128"
INT_MM = "torch._int_mm"
INT4 = "torch._weight_int4pack_mm"
DEEP_GEMM = "DeepGEMM"
LOOP = "loop of torch._scaled_mm 1x128 by 128x128"
DEEP_GEMM_LOOP = "loop of DeepGEMM"
COPY = "device copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked of some of a row's problems."""

    geomean: float
    worst: float | None = None
    where: str = ""  #: which problems, e.g. "M >= 2048"; "" = all
    takes: Callable[[Problem], bool] = lambda problem: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    peers: tuple[str, ...]  #: the fastest one that takes a problem counts
    takes: Callable[[Problem], bool]
    goals: tuple[Goal, ...] = ()  #: none: ratios are shown alone
    listed: bool = False  #: True where only shapes of the list count
    #: Microseconds that the hardware cannot go below, and what sets them.
    bound: Callable[[Problem, TileConfig, Gpu], float] | None = None
    bound_name: str = ""

    @property
    def against(self) -> str:
        """The peers, and the bound."""
        return " or ".join(self.peers) + (f", and {self.bound_name}" if self.bound_name else "")


def _m(least: int = 1, most: int = 1 << 30) -> Callable[[Problem], bool]:
    return lambda problem: least <= problem.tokens <= most


def _product(
    *recipes: str, outs: Sequence[str] = ("bf16",), least: int = 1, most: int = 1 << 30
) -> Callable[[Problem], bool]:
    """Plain products of these recipes with M in a range."""

    def takes(problem: Problem) -> bool:
        return (
            isinstance(problem, Gemm)
            and problem.recipe.name in recipes
            and problem.out in outs
            and least <= problem.m <= most
        )

    return takes


def _w4a16(large: bool) -> Callable[[Problem], bool]:
    """4-bit weights in groups of 128, of layers that are large in bf16 or are not."""

    def takes(problem: Problem) -> bool:
        return (
            isinstance(problem, Gemm)
            and problem.recipe.name == "w4a16-g128"
            and (2 * problem.n * problem.k >= LARGE_BYTES) is large
        )

    return takes


def _long_k(problem: Problem) -> bool:
    return isinstance(problem, Gemm) and problem.k >= 4096


def _grouped_fp8(problem: Problem) -> bool:
    return isinstance(problem, GroupedGemm) and problem.recipe.name == "deepseek-fp8"


def _streaming(problem: Problem) -> bool:
    """Quantise, dequantise, transpose a large tensor: the wider of input and output counts."""
    bits = {Quantize: "source", Dequantize: "out", Transpose: "element"}.get(type(problem))
    if bits is None:
        return False
    rows, cols = problem.shape
    return rows * cols * element(getattr(problem, bits)).bits // 8 >= LARGE_BYTES


def _dataflow(problem: Problem) -> bool:
    return (
        isinstance(problem, Dataflow)
        and isinstance(problem.target.element, IntElement)
        and problem.target.rounding is Rounding.STOCHASTIC
    )


def _issue_us(problem: Problem, config: TileConfig, gpu: Gpu) -> float:
    from bench.dataflow import issue_us

    assert isinstance(problem, Dataflow)
    return issue_us(problem, config, gpu)


_BF16_ABOVE = "M >= 2048"
ROWS = (
    Row(
        name="bf16",
        peers=(MATMUL,),
        takes=_product("bf16"),
        goals=(Goal(geomean=1.0, worst=0.93),),
        listed=True,
    ),
    Row(
        name="e4m3fn per row",
        peers=(ROW,),
        takes=_product("e4m3-row"),
        goals=(Goal(geomean=1.0, worst=0.92),),
        listed=True,
    ),
    Row(
        name="e4m3fn 1x128 / 128x128",
        peers=(BLOCK, DEEP_GEMM),
        takes=_product("deepseek-fp8"),
        goals=(Goal(geomean=1.02, worst=0.93),),
        listed=True,
    ),
    Row(
        name="int8 per row, bf16 out",
        peers=(INT_MM,),
        takes=_product("int8-row", least=17),  # the peer takes more than 16 rows
        goals=(Goal(geomean=1.5, worst=1.1),),
        listed=True,
    ),
    Row(
        name="int8 128x128, bf16 out",
        peers=(MATMUL,),
        takes=_product("int8-b128"),
        goals=(Goal(geomean=1.5, worst=1.3, where=_BF16_ABOVE, takes=_m(2048)),),
        listed=True,
    ),
    Row(
        name="int8 32x32",
        peers=(MATMUL,),
        takes=lambda problem: isinstance(problem, Gemm) and problem.recipe.name == "jetfire",
        listed=True,
    ),
    Row(
        name="weight gradient, int8 and e4m3fn 128x128",
        peers=(MATMUL_WGRAD,),
        takes=_product("int8-b128", "e4m3-b128", outs=("fp32",)),
        goals=(Goal(geomean=1.3, worst=1.1, where="K >= 4096", takes=_long_k),),
    ),
    Row(
        name="mxfp8 e4m3fn",
        peers=(MATMUL,),
        takes=_product("mxfp8-e4m3", least=65),
        goals=(Goal(geomean=1.0, where=_BF16_ABOVE, takes=_m(2048)),),
        listed=True,
    ),
    Row(
        name="mxfp8 e4m3fn, M <= 64",
        peers=(TENSOR,),
        takes=_product("mxfp8-e4m3", most=64),
        goals=(Goal(geomean=0.95),),
        listed=True,
    ),
    Row(
        name="w4a16 g128, >= 64 MiB in bf16",
        peers=(MATMUL,),
        takes=_w4a16(large=True),
        goals=(
            Goal(geomean=3.0, where="M <= 8", takes=_m(1, 8)),
            Goal(geomean=2.2, where="M = 32", takes=_m(32, 32)),
            Goal(geomean=0.8, where=_BF16_ABOVE, takes=_m(2048)),
        ),
    ),
    Row(
        name="w4a16 g128, smaller",
        peers=(MATMUL, INT4),
        takes=_w4a16(large=False),
        goals=(Goal(geomean=0.9, worst=0.9),),
    ),
    Row(
        name="grouped e4m3fn 1x128 / 128x128",
        peers=(LOOP, DEEP_GEMM_LOOP, DEEP_GEMM),
        takes=_grouped_fp8,
        goals=(Goal(geomean=1.0, worst=0.9),),
    ),
    Row(
        name="quantise, dequantise, transpose, >= 64 MiB",
        peers=(COPY,),
        takes=_streaming,
        goals=(Goal(geomean=0.9, worst=0.8),),
    ),
    Row(
        name="INT8 dataflow, stochastic rounding",
        peers=(COPY,),
        takes=_dataflow,
        goals=(Goal(geomean=0.85, worst=0.75),),
        bound=_issue_us,
        bound_name="issue slots",
    ),
)


def row_of(problem: Problem, shapes: Sequence[tuple[int, ...]] | None = SHAPES) -> Row | None:
    """The row that a problem belongs to, or ``None``.

    Args:
        shapes: those that count in rows of listed shapes; ``None`` = any.
    """
    for row in ROWS:
        if row.takes(problem):
            return None if row.listed and shapes and problem.shape not in shapes else row
    return None
