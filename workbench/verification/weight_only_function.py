"""The checks of ``linear_weight_only`` and ``pack_weight``."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.formats import pack_codes
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.hopper_weight_only_workload import HopperWeightOnlyWorkload
from tiles.kernels.hopper_weight_prefill_workload import HopperWeightPrefillWorkload
from tiles.kernels.weight_only_resources import group_columns
from tiles.kernels.weight_only_workload import WeightOnlyWorkload
from tiles.problems import Gemm, Problem
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_operator import HopperOperatorChecks
from workbench.verification.operator_case import GUARD_ROWS, Case, judge_product, poisoned
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender
from workbench.verification.weight_launcher import judge_launcher

__all__ = ["WeightOnlyFunctionChecks", "given_weight"]

#: In CUDA C++, of few rows and of many.
SKINNY, PREFILL = "hopper_weight_only", "hopper_weight_prefill"


def given_weight(quantized: QuantizedTensor) -> dict[str, Any]:
    """A quantised weight matrix as ``pack_weight`` takes it, by argument."""
    fmt = quantized.format
    assert fmt.scaling is not None
    assert quantized.scales is not None
    stored, scales = fmt.scaling.stored.name, quantized.scales
    if group_columns(fmt):
        if stored in ("e8m0fnu", "e4m3fn"):
            dtype = torch.float8_e4m3fn if stored == "e4m3fn" else torch.uint8
            scales = quantized.scale_bits.view(dtype)
        else:
            scales = scales.to(CODE_DTYPES[stored])
    return {
        "codes": pack_codes(quantized.bits, fmt.element.bits),
        "scales": scales,
        "columns": quantized.codes.shape[1],
        "zero_points": quantized.zero_points,
        "tensor_scale": quantized.tensor_scale,
    }


class WeightOnlyFunctionChecks(HopperOperatorChecks):
    """16-bit activations by packed weights, against fp64 products of what the codes stand for."""

    function: ClassVar[str] = "linear_weight_only"
    rival: ClassVar[str] = "torch.matmul in bf16"
    module: ClassVar[str] = "_weight_only"
    hopper: ClassVar[tuple[str, ...]] = (SKINNY, PREFILL)
    fallback: ClassVar[str] = "triton_weight_only"
    patterns: ClassVar[tuple[str, ...]] = (
        "random",
        "all-zero group",
        "outlier per group",
        "NaN scale",
        "infinity",
    )

    def small(self, tuned: Tuned) -> Problem:
        problem = tuned.problem
        assert isinstance(problem, Gemm)
        return problem.resized(min(problem.m, 16), min(problem.n, 64), self._columns(tuned) + 16)

    def _columns(self, tuned: Tuned) -> int:
        """Three panels, so that shares of a split K and groups along it differ; one a share."""
        assert isinstance(tuned.problem, Gemm)
        panel = 512 // tuned.problem.recipe.weight.element.bits
        shares = (int(tuned.config.get(field, 1)) for field in ("split_k", "cluster"))
        return max(3, *shares) * panel

    def tails(self, tuned: Tuned, device: str) -> Problem:
        assert isinstance(tuned.problem, Gemm)
        # Rows of weights come in sixteens where the kernel is CUDA C++.
        beyond = 16 if tuned.kernel in self.hopper else 3
        m, n = int(tuned.config["block_m"]) + 5, int(tuned.config["block_n"]) + beyond
        if device == "cpu":
            m, n = min(m, 21), min(n, 67)
        return tuned.problem.resized(m, n, self._columns(tuned) + 24)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        # K is one panel and less: a default's split has to give way.
        return tuned.problem.resized(*((19, 37, 133) if device == "cpu" else (35, 77, 191)))

    def default_problem(self, tuned: Tuned, family: str, device: str) -> Problem:
        if family not in self.hopper:
            return self.odd(tuned, device)
        # Aligned, and no multiple of a panel.
        return tuned.problem.resized(35, 80, self._columns(tuned) + 8)

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        def judge(check: Recorder) -> None:
            judge_launcher(
                check,
                subject.package._lookup.template(choice),
                layout=choice.file.layout,
                out=tuned.problem.formats[-1],
                config=tuned.config,
            )

        return judge

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Gemm)
        package, device = subject.package, subject.device
        workloads = {
            name: kind(problem, device=device, seed=subject.seed)
            for name, kind in (
                (self.fallback, WeightOnlyWorkload),
                (SKINNY, HopperWeightOnlyWorkload),
                (PREFILL, HopperWeightPrefillWorkload),
            )
        }
        drawn = x, quantized = _draw(problem, pattern, subject)
        for workload in workloads.values():
            workload.drawn = drawn
        weight = package.pack_weight(**given_weight(quantized), recipe=problem.recipe.name)
        dtype = CODE_DTYPES[problem.out]
        parts = (weight.codes, weight.scale, weight.zero, weight.row_scale)

        def call() -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package.linear_weight_only(x, weight, out_dtype=dtype, out=buffer[:-GUARD_ROWS])
            return buffer

        def launch(choice: Any) -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package._weight_only.run(choice, x, parts, buffer[:-GUARD_ROWS], problem.k)
            return buffer

        def judge(check: Recorder, buffer: Any, choice: Any) -> None:
            workload = workloads[choice.file.kernel]
            folded = choice.config.get("fold", choice.file.kernel == PREFILL)
            grouped = group_columns(problem.recipe.weight) > 0
            reference = workload.reference(fold=bool(folded) and grouped)
            judge_product(check, buffer, reference, "x".join(map(str, problem.shape)))

        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="linear_weight_only",
            arguments=(x, *parts, problem.recipe.name, problem.k, dtype),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        return _contenders(subject, tuned, choice)


def _contenders(subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
    """The package's product and ``torch.matmul`` in bf16, each on copies of the same operands."""
    problem = tuned.problem
    assert isinstance(problem, Gemm)
    x, quantized = _draw(problem, "random", subject)
    weight = subject.package.pack_weight(**given_weight(quantized), recipe=problem.recipe.name)
    parts = [weight.codes, weight.scale, weight.zero, weight.row_scale]
    wide = quantized.dequantize().to(torch.bfloat16)
    out_bytes = problem.m * problem.n * CODE_DTYPES[problem.out].itemsize

    def own() -> Callable[[], object]:
        held = [None if part is None else part.clone() for part in parts]
        rows, out = x.clone(), x.new_empty(problem.m, problem.n, dtype=CODE_DTYPES[problem.out])
        return lambda: subject.package._weight_only.run(choice, rows, held, out, problem.k)

    def matmul() -> Callable[[], object]:
        rows, held = x.to(torch.bfloat16).clone(), wide.clone().t()
        out = rows.new_empty(problem.m, problem.n)
        return lambda: torch.matmul(rows, held, out=out)

    size = sum(part.nbytes for part in (x, *parts) if part is not None) + out_bytes
    rival_bytes = 2 * (x.numel() + wide.numel() + problem.m * problem.n)
    name = str(problem)
    return [
        Contender(problem=name, name="this package", make=own, set_bytes=size),
        Contender(problem=name, name="torch.matmul bf16", make=matmul, set_bytes=rival_bytes),
    ]


def _draw(problem: Gemm, pattern: str, subject: Subject) -> tuple[torch.Tensor, QuantizedTensor]:
    """Activations and quantised weights that hold what the pattern says."""
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    m, n, k = problem.shape
    x = torch.randn(m, k, generator=generator, device=subject.device)
    w = torch.randn(n, k, generator=generator, device=subject.device)
    group = group_columns(problem.recipe.weight) or k
    if pattern == "all-zero group":
        w[0, :group] = 0
    elif pattern == "outlier per group":
        x[:, ::group] *= 1e3
        w[:, ::group] *= 1e3
    elif pattern == "infinity":
        x[m // 2, -1] = torch.inf
    quantized = quantize_tensor(w, problem.recipe.weight, seed=subject.seed)
    if pattern == "NaN scale":
        assert quantized.scales is not None
        scales = quantized.scales.clone()
        scales[-1, -1] = torch.nan
        quantized = replace(quantized, scales=scales)
    return x.to(CODE_DTYPES[problem.recipe.activation.element.name]), quantized
