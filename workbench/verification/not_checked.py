"""What no check on a CPU can tell about a package."""

from collections.abc import Iterable, Mapping
from typing import Any

from tiles.formats import FloatElement
from tiles.kernels import Backend, kernels
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, Problem, Quantize, parse_problem
from workbench.emission.functions import function_of

__all__ = ["MISREAD_SUBNORMALS", "without_gpu"]

#: Elements whose subnormals Triton's interpreter widens to other values (3.7).
MISREAD_SUBNORMALS = ("bf16", "e5m2")


def without_gpu(entries: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """One line for each thing that verification under Triton's interpreter leaves open.

    Args:
        entries: those of the evidence; only what their kernels and formats do is named.
    Raises:
        ValueError: an entry's problem is none.
    """
    known = kernels()
    interpreted: list[Problem] = []
    casts = cupy = False
    for entry in entries:
        problem = parse_problem(entry["problem"])
        cupy = cupy or known[entry["kernel"]].backend is Backend.CUPY
        if known[entry["kernel"]].backend is Backend.TRITON or _stands_in(entry["kernel"], problem):
            interpreted.append(problem)
            if not entry["config"].get("software_cast"):
                casts = casts or _casts(problem)
    lines = ["times, and with them every speed: there is no GPU"]
    if interpreted:
        lines.append("tuned shapes at their full size: small ones, below 500 a side, stand in")
    if casts:
        lines.append("rounding to 8-bit floats: Triton's interpreter casts unlike the hardware")
    inputs = {_input(problem) for problem in interpreted}
    misread = [name for name in MISREAD_SUBNORMALS if name in inputs]
    if misread:
        lines.append(f"subnormal {' and '.join(misread)} inputs: the interpreter misreads them")
    if any(
        isinstance(p, Gemm) and p.recipe.direct_cast and _input(p) == "e4m3fn" for p in interpreted
    ):
        lines.append("NaN codes of e4m3fn: the interpreter reads them as 480")
    if interpreted:
        lines.append("compiled code, shared memory and registers: the interpreter compiles nothing")
    if cupy:
        lines.append("CuPy kernels: they have no interpreter")
    return (*lines, "torch.compile and CUDA graphs")


def _stands_in(family: str, problem: Problem) -> bool:
    """Whether a kernel has a stand-in that the interpreter runs."""
    function = function_of(family, problem)
    return function is not None and bool(function.stand_ins(family, problem))


def _casts(problem: Problem) -> bool:
    """Whether a kernel rounds to 8-bit floats, which the hardware has an instruction for."""
    if isinstance(problem, Quantize):
        written = problem.target.element
    elif isinstance(problem, Gemm):
        written = problem.output.element
    else:
        return False
    return isinstance(written, FloatElement) and written.bits == 8


def _input(problem: Problem) -> str:
    """Name of the element that a kernel reads as a number; '' where it reads bits."""
    if isinstance(problem, Quantize):
        return problem.source
    if isinstance(problem, Gemm | GroupedGemm | BatchedGemm):
        return problem.recipe.weight.element.name
    return ""
