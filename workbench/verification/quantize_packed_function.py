"""The checks of ``quantize_packed``."""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.formats.rounding import Rounding
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.quantize_tiles import HARDWARE_ELEMENTS
from tiles.kernels.quantize_tiles_workload import Outputs, quantized_outputs
from tiles.problems import Problem, Quantize
from workbench.verification.cupy_launcher import cupy_obstacle
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.operator_case import POISON, Case
from workbench.verification.quantize_launcher import (
    SEED,
    judge_nvfp4_launcher,
    judge_quantize_launcher,
)
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender
from workbench.verification.tile_function import TileFunctionChecks

__all__ = ["QuantizePackedFunctionChecks", "exact_tiles"]

NVFP4 = "cuda_quantize_nvfp4"


class QuantizePackedFunctionChecks(TileFunctionChecks):
    """Codes and scales bit for bit those of the workbench's codec."""

    function: ClassVar[str] = "quantize_packed"
    module: ClassVar[str] = "_quantize_packed"
    rival: ClassVar[str] = "a copy of their input"
    patterns: ClassVar[tuple[str, ...]] = ("random", "nasty values")
    fallback: ClassVar[str] = "triton_quantize_tiles"

    def obstacle(self, subject: Subject, tuned: Tuned) -> str:
        return cupy_obstacle(subject.package._quantize_packed, subject, tuned, self.fallback)

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        """Whether the launcher takes the tuned configuration, and refuses bad arguments."""
        problem = tuned.problem
        assert isinstance(problem, Quantize)
        template = subject.package._lookup.template(choice)
        judge = judge_nvfp4_launcher if tuned.kernel == NVFP4 else judge_quantize_launcher
        return lambda check: judge(check, template, problem, choice)

    def tails(self, tuned: Tuned, device: str) -> Problem:
        if tuned.kernel == NVFP4:
            return tuned.problem.resized(133, 272)  # beyond a step's blocks, which stay whole
        if tuned.kernel != self.fallback:
            return tuned.problem.resized(133, 262)  # beyond blocks, and off 16 bytes
        found = super().tails(tuned, device)
        if not _whole_rows(tuned.problem):
            return found
        # The tuned tile holds the tuned row, and no longer one.
        rows, cols = found.shape
        return found.resized(rows, min(cols, tuned.problem.shape[1]))

    def interpreter(self, subject: Subject) -> contextlib.AbstractContextManager[None]:
        return exact_tiles(subject)

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Quantize)
        package, target = subject.package, problem.target
        module = package._quantize_packed
        x = _draw(problem, pattern, subject)
        seed = SEED if target.rounding is Rounding.STOCHASTIC else None
        options, format_name = list(problem.formats[2:]), str(target)
        # Interpreted casts to 8-bit floats are those of no hardware.
        casts = subject.device == "cpu" and target.element.name in HARDWARE_ELEMENTS
        unknown = {"codes": False}

        def call() -> list[torch.Tensor]:
            unknown["codes"] = casts and seed is None
            found = package.quantize_packed(
                x, format_name, seed=seed, **dict.fromkeys(options, True)
            )
            return [tensor for tensor in found if tensor is not None]

        def launch(choice: Any) -> list[torch.Tensor]:
            unknown["codes"] = False
            if casts:
                choice = replace(choice, config={**choice.config, "software_cast": True})
            outputs = module._empty(x, choice.file.layout)
            for tensor in outputs.values():
                if tensor.element_size() == 1:
                    tensor.view(torch.uint8).fill_(POISON)
                else:
                    tensor.fill_(-1.0)  # no block has a negative scale
            module.run(choice, x, outputs, seed)
            return list(outputs.values())

        def judge(check: Recorder, found: Any, choice: Any) -> None:
            wanted = quantized_outputs(x, problem, seed or 0)
            skip = unknown["codes"] and not choice.config["software_cast"]
            _judge(check, module._outputs(choice.file.layout), found, wanted, skip=skip)

        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="quantize_packed",
            arguments=(x, format_name, options, seed),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        assert isinstance(tuned.problem, Quantize)
        problem, module = tuned.problem, subject.package._quantize_packed
        x = _draw(problem, "random", subject)
        seed = SEED if problem.target.rounding is Rounding.STOCHASTIC else None

        def own() -> Callable[[], object]:
            source = x.clone()
            outputs = module._empty(source, choice.file.layout)
            return lambda: module.run(choice, source, outputs, seed)

        def copy() -> Callable[[], object]:
            source, target = x.clone(), torch.empty_like(x)
            return lambda: target.copy_(source)

        name, copied = str(problem), 2 * x.nbytes
        return [
            Contender(problem=name, name="this package", make=own, set_bytes=problem.min_bytes),
            Contender(problem=name, name="torch copy of the input", make=copy, set_bytes=copied),
        ]


def _whole_rows(problem: Problem) -> bool:
    assert isinstance(problem, Quantize)
    scaling = problem.target.scaling
    return scaling is not None and scaling.rows is not None and scaling.cols is None


def exact_tiles(subject: Subject) -> contextlib.AbstractContextManager[None]:
    """Makes Triton's interpreter as exact as the hardware; nothing on a GPU."""
    if subject.device == "cuda":
        return contextlib.nullcontext()
    name = f"{subject.package.__name__}.kernels.triton.tile_scales"
    return exact_interpreter(importlib.import_module(name))


def _draw(problem: Quantize, pattern: str, subject: Subject) -> torch.Tensor:
    """Random values; nasty: zero rows, outliers, NaN and infinities among them."""
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    x = torch.randn(problem.shape, generator=generator, device=subject.device)
    rows, cols = x.shape
    if pattern == "nasty values":
        x[0] = 0
        x[rows // 5 :: 7, :: max(1, cols // 3)] *= 1e3
        x[rows // 2, cols // 2] = torch.nan
        x[2 * rows // 3, cols - 1] = torch.inf
        x[rows - 1, 0] = -torch.inf
    return x.to(CODE_DTYPES[problem.source])


def _judge(
    check: Recorder, names: list[str], found: list[torch.Tensor], wanted: Outputs, *, skip: bool
) -> None:
    """Bit for bit, NaN for NaN."""
    expected = wanted.named()
    check.expect(sorted(names) == sorted(expected), f"it writes {names}, not {list(expected)}")
    for name, tensor in zip(names, found, strict=True):
        if skip and name.startswith("codes"):
            continue
        got, right = tensor, expected[name]
        if name.startswith("codes"):
            got, right = got.view(torch.uint8), right.view(torch.uint8)
        same = got == right
        if right.is_floating_point():
            same = same | (got.isnan() & right.isnan())
        wrong = torch.nonzero(~same)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            check.expect(False, f"{name} {at} is {got[at].item()}, reference {right[at].item()}")
    held = [name for name in names if not (skip and name.startswith("codes"))]
    check.note(f"{', '.join(held)} bit for bit")
