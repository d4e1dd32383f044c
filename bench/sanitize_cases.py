"""What runs under compute-sanitizer: every family's default configuration on small problems."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sim import Gpu
from tiles.kernels import Kernel, kernel, kernels
from tiles.problems import DATAFLOW_OPS, Problem, parse_problem
from tiles.recipes import RECIPES

__all__ = ["Case", "cases"]

#: M, N, K with tails of every tile; rows of 16 bytes for copies by descriptor; two K blocks of 128.
_GEMM, _SKINNY = "200x272x336", "24x272x336"
_MATRIX = "200x272"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One configuration of a kernel family on a small problem."""

    kernel: str
    problem: str
    config: dict[str, Any]


def _texts() -> Iterator[str]:
    """Problems of every kind and mode; each family takes those that it serves."""
    pairs: dict[tuple[object, ...], str] = {}
    for name, recipe in RECIPES.items():
        pairs.setdefault((recipe.activation, recipe.weight, recipe.outliers), name)
    few_rows = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "w4a16-g128", "mxfp8-e4m3")
    yield from (f"gemm:{_SKINNY}:{name}:bf16" for name in few_rows)
    for name in pairs.values():
        yield f"gemm:{_GEMM}:{name}:bf16"
        for out in ("fp32", "int8.b32x32", "int8.b32x32+sr", "int8.b64x64"):
            yield f"gemm:{_GEMM}:{name}:{out}"
    for name in ("bf16", "e4m3-tensor", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b1x128"):
        for second in ("nk", "kn"):
            yield f"batched_gemm:3x72x80x144:{name}:{second}:bf16"
        for layout in ("contiguous", "padded.128", "masked.128", "gathered.2"):
            yield f"grouped_gemm:3x200x272x384:{name}:{layout}:bf16"
    elements = ("int8", "e4m3fn", "e5m2")
    scalings = ("tensor", "row", "b1x128", "b32x32", "b128x128")
    targets = [f"{one}.{scaling}" for one in elements for scaling in scalings]
    targets += "e4m3fn.mx e3m2fn.mx e2m1fn.mx mxint8.mx nvfp4 int4.g128 int8.b32x32+sr".split()
    for target in targets:
        for option in ("", ":transposed", ":swizzled"):
            yield f"quantize:{_MATRIX}:{target}:bf16{option}"
        yield f"dequantize:{_MATRIX}:{target}:bf16"
    yield f"transpose:{_MATRIX}:int8"
    for operator in DATAFLOW_OPS:
        for rounding in ("", "+sr"):
            yield f"dataflow:{_MATRIX}:{operator}:int8.b32x32{rounding}"


def cases(gpu: Gpu, families: Sequence[str] = ()) -> list[Case]:
    """Default configurations of the families, or of all, on every problem that each serves."""
    problems: list[Problem] = []
    for text in _texts():
        try:
            problems.append(parse_problem(text))
        except ValueError:
            continue  # a format without that option, e.g. swizzled scales of whole rows
    chosen: list[Kernel] = [kernel(name) for name in families] or list(kernels().values())
    return [
        Case(
            kernel=family.name,
            problem=str(problem),
            config=family.default(problem, gpu.limits).to_dict(),
        )
        for family in chosen
        for problem in problems
        if family.refusal(problem, gpu.limits) is None
    ]
