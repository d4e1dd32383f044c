"""The rows of the table of ratios: problems, peers, bounds and what is asked.

A ratio is the time of the fastest of the peers that a goal names over ours.  Where it names bounds
too, the slowest of all counts: nothing is asked to be faster than the hardware.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench.shapes import (
    ATTENTION,
    DATAFLOW,
    DECODING,
    EXPERTS,
    LARGE_BYTES,
    LARGE_LAYERS,
    SHAPES,
    SMALL_LAYERS,
    STREAMING,
    TRAINING,
    WGRAD,
    by_tokens,
    each,
)
from tiles.problems import Problem, parse_problem

__all__ = ["ROWS", "Goal", "Row", "rows_of"]

MATMUL = "torch.matmul bf16"
MATMUL_WGRAD = "torch.matmul bf16, weight gradient"
TENSOR = "torch._scaled_mm tensor, fast accumulation"
ROW = "torch._scaled_mm row, fast accumulation"
BLOCK = "torch._scaled_mm 1x128 by 128x128"
INT_MM = "torch._int_mm"
INT4 = "torch._weight_int4pack_mm"
DEEP_GEMM = "DeepGEMM"
LOOP = "loop of torch's product"
DEEP_GEMM_LOOP = "loop of DeepGEMM"
TORCH_GROUPED = "torch's grouped product"
BATCHED_LOOP = "loop over the batch"
BMM = "torch.bmm bf16"
COPY = "device copy"
JETFIRE = "Jetfire as released, recorded"

PROMOTION = "bound of the promotion"
ISSUE = "bound of the issue slots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked of some of a row's problems; without numbers a ratio is shown alone."""

    geomean: float | None = None
    worst: float | None = None
    where: str = ""  #: which problems, e.g. "M >= 2048"; "" = all
    takes: Callable[[Problem], bool] = lambda problem: True
    against: tuple[str, ...] = ()  #: peers and bounds; () = the row's peers
    slowest: bool = False  #: of ``against`` the slowest counts, else the fastest
    agreed: bool = (
        False  #: problems that a peer refuses, which took others of the row, do not count
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    problems: tuple[str, ...]
    peers: tuple[str, ...]
    goals: tuple[Goal, ...] = (Goal(),)
    bounds: tuple[str, ...] = ()  #: times that the hardware cannot go below
    note: str = ""  #: what is counted on either side
    fits: Callable[[Problem], bool] = lambda problem: True  #: of other shapes than the list's

    def takes(self, problem: Problem, *, any_shape: bool = False) -> bool:
        """Whether a problem belongs to the row.

        Args:
            any_shape: also problems of another shape in the same formats.
        """
        if str(problem) in self.problems:
            return True
        formats = map(_formats, map(parse_problem, self.problems)) if any_shape else ()
        return _formats(problem) in formats and self.fits(problem)


def _formats(problem: Problem) -> tuple[str, ...]:
    """A problem's text without its shape, and without the rows that a masked layout leaves."""
    kind, _, *rest = str(problem).split(":")
    return kind, *(field.partition(".")[0] if "masked" in field else field for field in rest)


def _tokens(least: int, most: int = 1 << 30) -> Callable[[Problem], bool]:
    return lambda problem: least <= problem.tokens <= most


def _weight(large: bool) -> Callable[[Problem], bool]:
    """Layers whose weights are large in bf16, or are not."""
    return lambda problem: (2 * problem.shape[1] * problem.shape[2] >= LARGE_BYTES) is large


def _long_k(problem: Problem) -> bool:
    return problem.shape[2] >= 4096


_ABOVE = "M >= 2048"
_TURNED = (
    "both operands come with K (the tokens) contiguous: the codes were transposed when they were "
    "quantised, which is not counted; cuBLAS reads bf16 by token as it lies"
)
_BELOW_ALL = "products, conversions, FMAs and issue slots; no memory, no epilogue"
_W4 = "w4a16-g128"
ROWS = (
    Row(
        name="bf16",
        problems=each(SHAPES, "bf16"),
        peers=(MATMUL,),
        goals=(Goal(geomean=1.0, worst=0.93),),
    ),
    Row(
        name="e4m3fn per row",
        problems=each(SHAPES, "e4m3-row"),
        peers=(ROW,),
        goals=(Goal(geomean=1.0, worst=0.92),),
    ),
    Row(
        name="e4m3fn 1x128 / 128x128",
        problems=each(SHAPES, "deepseek-fp8"),
        peers=(BLOCK, DEEP_GEMM),
        goals=(
            Goal(geomean=1.02, where="no peer refuses", agreed=True),
            Goal(worst=0.93),
        ),
        note="all promote to fp32 every 128 of K; where one peer refuses, the other counts",
    ),
    Row(
        name="int8 per row, bf16 out",
        problems=each((s for s in SHAPES if s[0] > 16), "int8-row"),  # the peer takes more than 16
        peers=(INT_MM,),
        goals=(Goal(geomean=1.5, worst=1.1),),
        note="the peer writes int32 and applies no scale",
        fits=_tokens(17),
    ),
    Row(
        name="int8 128x128, bf16 out",
        problems=each(SHAPES, "int8-b128"),
        peers=(MATMUL,),
        goals=(Goal(geomean=1.5, where=_ABOVE, takes=_tokens(2048)), Goal(worst=1.3)),
    ),
    Row(
        name="int8 32x32, int8 + scales out",
        problems=each(TRAINING, "jetfire", outs=("int8.b32x32", "int8.b32x32+sr")),
        peers=(MATMUL, JETFIRE),
        bounds=(PROMOTION,),
        goals=(
            Goal(geomean=0.8, where=_ABOVE, takes=_tokens(2048), against=(PROMOTION,)),
            Goal(geomean=2.5, against=(JETFIRE,)),
            Goal(against=(MATMUL,)),
        ),
        note=f"the bound: {_BELOW_ALL}",
    ),
    Row(
        name="int8 32x32, bf16 out",
        problems=each(TRAINING, "jetfire"),
        peers=(MATMUL,),
        bounds=(PROMOTION,),
        goals=(Goal(against=(MATMUL,)), Goal(against=(PROMOTION,))),
        note=f"the bound: {_BELOW_ALL}",
    ),
    Row(
        name="int8 64x64, int8 + scales out",
        problems=each(TRAINING, "jetfire-64", outs=("int8.b64x64",)),
        peers=(MATMUL,),
        bounds=(PROMOTION,),
        goals=(Goal(against=(MATMUL,)), Goal(against=(PROMOTION,))),
        note=f"the bound: {_BELOW_ALL}",
    ),
    Row(
        name="weight gradient, int8 and e4m3fn 128x128, fp32 out",
        problems=each(WGRAD, "int8-b128", "e4m3-b128", outs=("fp32",)),
        peers=(MATMUL_WGRAD,),
        goals=(Goal(geomean=1.3, where="K >= 4096", takes=_long_k), Goal(worst=1.1)),
        note=f"{_TURNED}, and writes bf16",
    ),
    Row(
        name="weight gradient, int8 and e4m3fn 128x128, bf16 out",
        problems=each(WGRAD, "int8-b128", "e4m3-b128"),
        peers=(MATMUL_WGRAD,),
        goals=(Goal(geomean=1.3, where="K >= 4096", takes=_long_k), Goal(worst=1.1)),
        note=_TURNED,
    ),
    Row(
        name="weight gradient, int8 32x32, fp32 out",
        problems=each(WGRAD, "jetfire", outs=("fp32",)),
        peers=(MATMUL_WGRAD,),
        bounds=(PROMOTION,),
        goals=(Goal(against=(MATMUL_WGRAD,)), Goal(against=(PROMOTION,))),
        note=f"{_TURNED}, and writes bf16",
    ),
    Row(
        name="mxfp8 e4m3fn",
        problems=each((s for s in SHAPES if s not in DECODING), "mxfp8-e4m3"),
        peers=(MATMUL,),
        goals=(Goal(geomean=1.0, where=_ABOVE, takes=_tokens(2048)),),
        fits=_tokens(65),
    ),
    Row(
        name="mxfp8 e4m3fn, M <= 64",
        problems=each(DECODING, "mxfp8-e4m3"),
        peers=(TENSOR,),
        goals=(Goal(geomean=0.95),),
        fits=_tokens(1, 64),
    ),
    Row(
        name="w4a16 g128, >= 64 MiB in bf16",
        problems=each(by_tokens(LARGE_LAYERS), _W4),
        peers=(MATMUL, INT4),
        goals=(
            Goal(geomean=3.0, where="M <= 8", takes=_tokens(1, 8), against=(MATMUL,)),
            Goal(geomean=2.2, where="M = 32", takes=_tokens(32, 32), against=(MATMUL,)),
            Goal(geomean=0.8, where=_ABOVE, takes=_tokens(2048), against=(MATMUL,)),
            Goal(against=(INT4,)),
        ),
        fits=_weight(large=True),
    ),
    Row(
        name="w4a16 g128, smaller",
        problems=each(by_tokens(SMALL_LAYERS), _W4),
        peers=(MATMUL, INT4),
        goals=(Goal(geomean=0.9, worst=0.9),),
        fits=_weight(large=False),
    ),
    Row(
        name="grouped e4m3fn 1x128 / 128x128",
        problems=tuple(
            f"grouped_gemm:{shape}:deepseek-fp8:{layout}:bf16"
            for shape, layouts in EXPERTS
            for layout in layouts
        ),
        peers=(LOOP, DEEP_GEMM_LOOP, DEEP_GEMM),
        goals=(Goal(geomean=1.0, worst=0.9),),
        note="loops know the counts on the host, which costs them nothing here",
    ),
    Row(
        name="quantise, dequantise, transpose, >= 64 MiB",
        problems=STREAMING,
        peers=(COPY,),
        goals=(Goal(geomean=0.9, worst=0.8),),
        note="the copy reads and writes as many bytes together",
    ),
    Row(
        name="INT8 dataflow, stochastic rounding",
        problems=DATAFLOW,
        peers=(COPY,),
        bounds=(ISSUE,),
        goals=(
            Goal(geomean=0.85, worst=0.75, against=(COPY, ISSUE), slowest=True),
            Goal(against=(COPY,)),
        ),
        note="issue slots: the instructions that the launch executed, counted by the hardware, "
        "at the measured rate",
    ),
    Row(
        name="grouped int8 1x128 and bf16",
        problems=tuple(
            f"grouped_gemm:{shape}:{name}:{layout}:bf16"
            for name in ("int8-b1x128", "bf16")
            for shape, layouts in EXPERTS[::2]
            for layout in layouts[1:2]
        ),
        peers=(LOOP, TORCH_GROUPED),
        note="int8 beside a loop of torch._int_mm, which applies no scale",
    ),
    Row(
        name="batched: attention's products",
        problems=tuple(
            f"batched_gemm:{text.format(name)}:bf16"
            for name in ("e4m3-tensor", "int8-row", "bf16")
            for text in ATTENTION
        ),
        peers=(BMM, BATCHED_LOOP),
    ),
    Row(
        name="formats that the tensor cores lack",
        problems=each(
            (SHAPES[0], SHAPES[9]),
            "fp8-ptq-e3m4",
            "fp8-ptq-mixed",
            "posit8",
            "mxfp8-e5m2",
            "mxfp6-e3m2",
            "mxfp4",
            "mxint8",
            "nvfp4",
        ),
        peers=(MATMUL,),
    ),
    Row(
        name="int8 with outliers apart",
        problems=each((SHAPES[0], SHAPES[8]), "llm-int8", "int8-fallback"),
        peers=(MATMUL,),
    ),
    Row(
        name="w8a16",
        problems=each(((m, *LARGE_LAYERS[0]) for m in (1, 8, 32, 2048)), "w8a16"),
        peers=(MATMUL,),
    ),
)


def rows_of(problem: Problem, *, any_shape: bool = False) -> tuple[Row, ...]:
    """The rows that a problem belongs to; a square product may also be a weight gradient.

    Args:
        any_shape: as in :meth:`Row.takes`.
    """
    return tuple(row for row in ROWS if row.takes(problem, any_shape=any_shape))
