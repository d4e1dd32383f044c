"""The checks of ``batched_gemm``."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tiles.kernels.batched_workload import BatchedWorkload
from tiles.problems import BatchedGemm, Problem, SecondOperand
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.operator_case import Case
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender

__all__ = ["BatchedGemmFunctionChecks"]

#: Matrices in place of the tuned ones where few will do: two times two.
MATRICES = 4
HEADS = "heads between tokens"


class BatchedGemmFunctionChecks(OperatorChecks):
    """Products of many matrices, each against its fp64 product."""

    function: ClassVar[str] = "batched_gemm"
    module: ClassVar[str] = "_batched_gemm"
    rival: ClassVar[str] = "torch.bmm in bf16"
    patterns: ClassVar[tuple[str, ...]] = ("random", HEADS, "NaN scale")

    def small(self, tuned: Tuned) -> Problem:
        return tuned.problem.resized(MATRICES, 24, 48, _depth(tuned, 256))

    def tails(self, tuned: Tuned, device: str) -> Problem:
        tma = bool(tuned.config["tma"])
        m, n = int(tuned.config["block_m"]) + 5, int(tuned.config["block_n"]) + (48 if tma else 3)
        if device == "cpu":
            m, n = min(m, 21), 80 if tma else 51
        # Behind a (K, N) matrix lies the next one: descriptors need whole tiles along K.
        assert isinstance(tuned.problem, BatchedGemm)
        whole = tma and tuned.problem.second is SecondOperand.KN
        k = _depth(tuned, 128) + (0 if whole else 48 if tma else 3)
        return tuned.problem.resized(MATRICES, m, n, k)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return tuned.problem.resized(
            MATRICES, *((19, 37, 133) if device == "cpu" else (35, 77, 191))
        )

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, BatchedGemm)
        package, seed = subject.package, subject.seed
        workload = BatchedWorkload(problem, device=subject.device, seed=seed)
        made = workload.operands
        if pattern == "NaN scale" and made.b_scale is not None:
            made.b_scale[-1, -1, -1] = torch.nan
        a, b, c = made.a, made.b, made.c
        a_scale, b_scale = made.a_scale, made.b_scale
        if pattern == HEADS:
            a, b, c = (_heads_between(tensor) for tensor in (a, b, c))
            a_scale, b_scale = (
                None if scale is None else _two_batches(scale) for scale in (a_scale, b_scale)
            )
        operands = (a, b, a_scale, b_scale)

        def blank() -> torch.Tensor:
            out = torch.empty_strided(c.shape, c.stride(), dtype=c.dtype, device=c.device)
            return out.fill_(torch.nan)

        def call() -> torch.Tensor:
            found: torch.Tensor = package.batched_gemm(
                *operands,
                recipe=problem.recipe.name,
                second=problem.second.value,
                out_dtype=c.dtype,
                out=blank(),
            )
            return found

        def launch(choice: Any) -> torch.Tensor:
            out, module = blank(), package._batched_gemm
            fits = module.fitting(choice, a, b) if pattern == HEADS else choice
            module.run(fits, operands, out)
            return out

        def judge(check: Recorder, out: Any, choice: Any) -> None:
            accuracy = workload.verdict(out.reshape(made.c.shape))
            check.expect(accuracy.ok, accuracy.reason)
            check.note(
                f"{problem}: error at most {accuracy.max_error_over_bound:.3g} of the bound, "
                f"relative rms error {accuracy.relative_rms:.3g}"
            )

        rest = (problem.recipe.name, problem.second.value, c.dtype)
        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="batched_gemm",
            arguments=(*operands, *rest),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        assert isinstance(tuned.problem, BatchedGemm)
        problem = tuned.problem
        made = BatchedWorkload(problem, device=subject.device, seed=subject.seed).operands
        batch, m, n, k = problem.shape

        def own() -> Callable[[], object]:
            held = made.copy()
            operands = (held.a, held.b, held.a_scale, held.b_scale)
            return lambda: subject.package._batched_gemm.run(choice, operands, held.c)

        def bmm() -> Callable[[], object]:
            a = torch.randn(batch, m, k, device=subject.device).to(torch.bfloat16)
            stored = (n, k) if problem.second is SecondOperand.NK else (k, n)
            b = torch.randn(batch, *stored, device=subject.device).to(torch.bfloat16)
            right = b.mT if problem.second is SecondOperand.NK else b
            out = a.new_empty(batch, m, n)
            return lambda: torch.bmm(a, right, out=out)

        size = problem.min_bytes
        rival_bytes = 2 * batch * (m * k + n * k + m * n)
        return [
            Contender(problem=str(problem), name="this package", make=own, set_bytes=size),
            Contender(problem=str(problem), name="torch.bmm bf16", make=bmm, set_bytes=rival_bytes),
        ]


def _depth(tuned: Tuned, least: int) -> int:
    """K of a few tiles: a multiple of the tuned depth."""
    step = int(tuned.config["block_k"])
    return -(-least // step) * step


def _heads_between(tensor: torch.Tensor) -> torch.Tensor:
    """(batch, heads, rows, columns) with the same values; in memory, heads between rows."""
    bits = torch.int8 if tensor.element_size() == 1 else tensor.dtype
    split = tensor.view(bits).view(2, -1, *tensor.shape[1:]).transpose(1, 2).contiguous()
    return split.transpose(1, 2).view(tensor.dtype)


def _two_batches(scale: torch.Tensor) -> torch.Tensor:
    """A first batch dimension of two; strides of the grids stay."""
    step = scale.stride(0)
    half = scale.shape[0] // 2
    return scale.as_strided((2, half, *scale.shape[1:]), (half * step, step, *scale.stride()[1:]))
