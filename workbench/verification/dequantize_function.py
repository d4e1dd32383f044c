"""The checks of ``dequantize``."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from tiles.formats.torch_codec import quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.quantize_tiles_workload import packed_codes, stored_scales
from tiles.problems import Dequantize, Problem
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.operator_case import Case
from workbench.verification.quantize_packed_function import exact_tiles
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender
from workbench.verification.tile_function import (
    TileFunctionChecks,
    copy_contender,
    judge_bits,
    poisoned_like,
)

__all__ = ["DequantizeFunctionChecks"]


class DequantizeFunctionChecks(TileFunctionChecks):
    """Values bit for bit those of the workbench's codec."""

    function: ClassVar[str] = "dequantize"
    module: ClassVar[str] = "_dequantize"
    patterns: ClassVar[tuple[str, ...]] = ("random", "nasty values")

    def interpreter(self, subject: Subject) -> contextlib.AbstractContextManager[None]:
        return exact_tiles(subject)

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Dequantize)
        package, drawn = subject.package, _draw(problem, pattern, subject)
        dtype, source = CODE_DTYPES[problem.out], str(problem.source)

        def call() -> torch.Tensor:
            found: torch.Tensor = package.dequantize(
                drawn.codes,
                drawn.scales,
                source,
                columns=problem.cols,
                tensor_scale=drawn.tensor_scale,
                out_dtype=dtype,
                out=poisoned_like(drawn.values),
            )
            return found

        def launch(choice: Any) -> torch.Tensor:
            out = poisoned_like(drawn.values)
            if subject.device == "cpu":
                # Interpreted casts from 8-bit floats are those of no hardware.
                choice = replace(choice, config={**choice.config, "software_cast": True})
            package._dequantize.run(choice, drawn.codes, drawn.scales, drawn.tensor_scale, out)
            return out

        def judge(check: Recorder, found: Any, choice: Any) -> None:
            judge_bits(check, found, drawn.values)

        arguments = (drawn.codes, drawn.scales, drawn.tensor_scale)
        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="dequantize",
            arguments=(*arguments, source, problem.cols, dtype),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        assert isinstance(tuned.problem, Dequantize)
        problem, size = tuned.problem, tuned.problem.min_bytes
        drawn = _draw(problem, self.patterns[0], subject)

        def own() -> Callable[[], object]:
            parts = [
                None if part is None else part.clone()
                for part in (drawn.codes, drawn.scales, drawn.tensor_scale)
            ]
            out = torch.empty_like(drawn.values)
            return lambda: subject.package._dequantize.run(choice, *parts, out)

        return [
            Contender(problem=str(problem), name="this package", make=own, set_bytes=size),
            copy_contender(problem, size, subject.device),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    codes: torch.Tensor
    scales: torch.Tensor
    tensor_scale: torch.Tensor | None
    values: torch.Tensor  #: what they stand for, in the output's dtype


def _draw(problem: Dequantize, pattern: str, subject: Subject) -> _Drawn:
    """A quantised matrix; nasty: blocks of zeros, outliers, and a scale that is NaN."""
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    x = torch.randn(problem.shape, generator=generator, device=subject.device)
    if pattern == "nasty values":
        rows, cols = x.shape
        x[0] = 0
        x[rows // 5 :: 7, :: max(1, cols // 3)] *= 1e3
        x[rows // 2, cols // 2] = torch.nan
    quantized = quantize_tensor(x, problem.source, seed=subject.seed)
    outer = quantized.tensor_scale
    return _Drawn(
        codes=packed_codes(quantized.bits, problem.source),
        scales=stored_scales(quantized),
        tensor_scale=None if outer is None else outer.view(1),
        values=quantized.dequantize().to(CODE_DTYPES[problem.out]),
    )
