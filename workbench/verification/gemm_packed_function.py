"""The checks of ``gemm_packed``."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.formats import FloatElement, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.decoded_workload import DecodedGemmWorkload, stored_matrix
from tiles.kernels.mx_alignment import aligned_reference
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.problems import Gemm, Problem
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_operator import HopperOperatorChecks
from workbench.verification.operator_case import GUARD_ROWS, Case, judge_product, poisoned
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender

__all__ = ["PackedGemmFunctionChecks"]

TRITON, ALIGNED = "triton_decoded_gemm", "hopper_aligned_gemm"
HOPPER = ("hopper_block_gemm", "hopper_skinny_gemm", ALIGNED)
#: Extent along K of a few blocks of any format.
BLOCKS = 288


class PackedGemmFunctionChecks(HopperOperatorChecks):
    """Products of packed codes, against fp64 products of what the codes stand for."""

    function: ClassVar[str] = "gemm_packed"
    hopper: ClassVar[tuple[str, ...]] = HOPPER
    rival: ClassVar[str] = "torch.matmul in bf16"
    module: ClassVar[str] = "_gemm_packed"
    fallback: ClassVar[str] = TRITON
    patterns: ClassVar[tuple[str, ...]] = (
        "random",
        "all-zero block",
        "outlier per block",
        "NaN scale",
        "infinity",
    )

    def small(self, tuned: Tuned) -> Problem:
        assert isinstance(tuned.problem, Gemm)
        return tuned.problem.resized(min(tuned.problem.m, 40), 48, BLOCKS)

    def tails(self, tuned: Tuned, device: str) -> Problem:
        step = 16 if tuned.kernel in HOPPER or tuned.config.get("tma") else 2
        # A default of the other kernel has its own tile; any odd number of rows will do there.
        tile = [int(tuned.config.get(name, 64)) for name in ("block_m", "block_n", "block_k")]
        m, n, k = tile[0] + 5, tile[1] + 3 * step, max(tile[2], BLOCKS) + step
        if device == "cpu":
            m, n = min(m, 37), min(n, 48 + 3 * step)
        return tuned.problem.resized(m, n, k)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        # K is even: a 4-bit row of an odd number of columns has half a byte of nothing.
        return tuned.problem.resized(*((19, 37, 133) if device == "cpu" else (35, 77, 191)))

    def default_problem(self, tuned: Tuned, family: str, device: str) -> Problem:
        return self.tails(tuned, device) if family in HOPPER else self.odd(tuned, device)

    def interpreter(self, subject: Subject) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if subject.device == "cuda" else exact_interpreter()

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Gemm)
        package, device, dtype = subject.package, subject.device, CODE_DTYPES[problem.out]
        a, b = _draw(problem, pattern, subject)
        left, right = stored_matrix(a), stored_matrix(b)
        operands = (
            left.codes, right.codes, left.scales, right.scales, left.tensor_scale,
            right.tensor_scale,
        )  # fmt: skip

        def call() -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package.gemm_packed(
                *operands[:4],
                recipe=problem.recipe.name,
                columns=problem.k,
                a_tensor_scale=left.tensor_scale,
                b_tensor_scale=right.tensor_scale,
                out_dtype=dtype,
                out=buffer[:-GUARD_ROWS],
            )
            return buffer

        def launch(choice: Any) -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package._gemm_packed.run(choice, operands, buffer[:-GUARD_ROWS], problem.k)
            return buffer

        def judge(check: Recorder, buffer: Any, choice: Any) -> None:
            if choice.file.kernel == ALIGNED:
                reference = aligned_reference(problem, a, b)
            elif choice.file.kernel in HOPPER:
                reference = gemm_reference(
                    a.dequantize(torch.float64),
                    b.dequantize(torch.float64),
                    gemm_arithmetic(problem, decode=False),
                )
            else:
                workload = DecodedGemmWorkload(problem, device=device, seed=0)
                workload.drawn = (a, b)
                reference = workload.reference(native=bool(choice.config["native"]))
            judge_product(check, buffer, reference, "x".join(map(str, problem.shape)))

        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="gemm_packed",
            arguments=(*operands, problem.recipe.name, problem.k, dtype),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        return _contenders(subject, tuned, choice)


def _draw(problem: Gemm, pattern: str, subject: Subject) -> tuple[QuantizedTensor, QuantizedTensor]:
    """Both operands, quantised, holding what the pattern says."""
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    recipe = problem.recipe
    sides = []
    for rows, fmt in ((problem.m, recipe.activation), (problem.n, recipe.weight)):
        x = torch.randn(rows, problem.k, generator=generator, device=subject.device)
        block = (fmt.scaling.cols if fmt.scaling is not None else None) or 32
        if pattern == "all-zero block":
            x[0, :block] = 0
        elif pattern == "outlier per block":
            x[:, ::block] *= 1e3
        sides.append(_spoiled(quantize_tensor(x, fmt, seed=subject.seed), pattern))
    return sides[0], sides[1]


def _spoiled(quantized: QuantizedTensor, pattern: str) -> QuantizedTensor:
    """The last row's last scale becomes NaN, or a code infinite, where the format has such."""
    if pattern == "NaN scale" and quantized.scales is not None:
        scales = quantized.scales.clone()
        scales[-1, -1] = torch.nan
        return replace(quantized, scales=scales)
    if pattern == "infinity" and (code := _infinity(quantized.format)) is not None:
        codes = quantized.codes.clone()
        codes.view(torch.uint8)[codes.shape[0] // 2, -1] = code
        return replace(quantized, codes=codes)
    return quantized


def _infinity(fmt: TensorFormat) -> int | None:
    element = fmt.element
    narrow = isinstance(element, FloatElement) and element.bits <= 8
    return element.inf_code if narrow and isinstance(element, FloatElement) else None


def _contenders(subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
    """The package's product and ``torch.matmul`` in bf16, each on copies of the same operands."""
    problem = tuned.problem
    assert isinstance(problem, Gemm)
    a, b = _draw(problem, "random", subject)
    left, right = stored_matrix(a), stored_matrix(b)
    operands = [
        left.codes, right.codes, left.scales, right.scales, left.tensor_scale, right.tensor_scale,
    ]  # fmt: skip
    wide = [side.dequantize().to(torch.bfloat16) for side in (a, b)]
    cells, dtype = problem.m * problem.n, CODE_DTYPES[problem.out]

    def own() -> Callable[[], object]:
        held = [None if part is None else part.clone() for part in operands]
        out = torch.empty(problem.m, problem.n, dtype=dtype, device=subject.device)
        return lambda: subject.package._gemm_packed.run(choice, held, out, problem.k)

    def matmul() -> Callable[[], object]:
        rows, held = wide[0].clone(), wide[1].clone().t()
        out = rows.new_empty(problem.m, problem.n)
        return lambda: torch.matmul(rows, held, out=out)

    size = sum(part.nbytes for part in operands if part is not None) + cells * dtype.itemsize
    rival_bytes = sum(side.nbytes for side in wide) + 2 * cells
    name = str(problem)
    return [
        Contender(problem=name, name="this package", make=own, set_bytes=size),
        Contender(problem=name, name="torch.matmul bf16", make=matmul, set_bytes=rival_bytes),
    ]
