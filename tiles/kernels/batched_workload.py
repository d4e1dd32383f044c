"""A batched GEMM opened on a device: random operands, launches, and the check of the answer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.gemm_workload import copied, dequantize, launch_block, must_decode
from tiles.kernels.quantize_torch import quantize_torch, stacked_scales
from tiles.kernels.triton import gemm_batched
from tiles.problems import BatchedGemm, SecondOperand

__all__ = ["BatchedOperands", "BatchedWorkload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedOperands:
    """One copy of a batch's operands and output; see ``gemm_batched.launch``."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a_scale: torch.Tensor | None
    b_scale: torch.Tensor | None

    def copy(self) -> "BatchedOperands":
        """The same values in memory of their own, with the same strides."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        copies: dict[str, Any] = {n: None if t is None else copied(t) for n, t in tensors.items()}
        return BatchedOperands(**copies)


class BatchedWorkload(CopiedWorkload[BatchedOperands]):
    """Random normal operands, every matrix quantised by itself, kept on ``device``."""

    problem: BatchedGemm

    def __init__(
        self, problem: BatchedGemm, *, device: str, seed: int, decode: bool | None = None
    ) -> None:
        """Keep the problem; operands are drawn on first use.

        Args:
            problem: the products.
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds A and B.
            decode: multiply 8-bit floats as fp16; default: where the device has no other way.
        """
        self.problem = problem
        self.device = device
        self._interpreted = torch.device(device).type == "cpu"
        self._decode = must_decode(problem.recipe, device) if decode is None else decode
        self._seed = seed

    @property
    def decode(self) -> bool:
        """True when 8-bit floats are multiplied as fp16."""
        return self._decode

    def _blank(self) -> BatchedOperands:
        """Operands of the right shapes, dtypes and strides with whatever the memory holds."""
        problem, recipe = self.problem, self.problem.recipe
        batch, m, n, k = problem.shape

        def empty(fmt: TensorFormat, *shape: int) -> torch.Tensor:
            dtype = CODE_DTYPES[fmt.element.name]
            return torch.empty(batch, *shape, dtype=dtype, device=self.device)

        def scales(fmt: TensorFormat, rows: int) -> torch.Tensor | None:
            if fmt.scaling is None:
                return None
            return stacked_scales(batch, rows, k, fmt.scaling, self.device)

        stored = (n, k) if problem.second is SecondOperand.NK else (k, n)
        out = torch.empty(batch, m, n, dtype=CODE_DTYPES[problem.out], device=self.device)
        return BatchedOperands(
            a=empty(recipe.activation, m, k),
            b=empty(recipe.weight, *stored),
            c=out,
            a_scale=scales(recipe.activation, m),
            b_scale=scales(recipe.weight, n),
        )

    @cached_property
    def operands(self) -> BatchedOperands:
        """The copy that :meth:`check` uses."""
        problem, recipe = self.problem, self.problem.recipe
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        made = self._blank()
        for z in range(problem.batch):
            for codes, scales, rows, fmt, turned in (
                (made.a, made.a_scale, problem.m, recipe.activation, False),
                (
                    made.b,
                    made.b_scale,
                    problem.n,
                    recipe.weight,
                    problem.second is SecondOperand.KN,
                ),
            ):
                x = torch.randn(rows, problem.k, generator=generator, device=self.device)
                drawn, found = quantize_torch(x, fmt)
                codes[z].copy_(drawn.T if turned else drawn)
                if scales is not None and found is not None:
                    scales[z].copy_(found)
        return made

    def _arguments(self, operands: BatchedOperands, config: TileConfig) -> dict[str, Any]:
        recipe = self.problem.recipe
        return {
            **{f.name: getattr(operands, f.name) for f in fields(operands)},
            "second": self.problem.second.value,
            "a_block": launch_block(recipe.activation),
            "b_block": launch_block(recipe.weight),
            "config": config.to_dict(),
            "decode": self._decode,
        }

    def _launcher(self, operands: BatchedOperands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            gemm_batched.launch(**arguments)

        return run

    def _copy(self) -> BatchedOperands:
        return self.operands.copy()

    def reference(self, z: int) -> Reference:
        """The exact product of one matrix and its limits."""
        recipe, made = self.problem.recipe, self.operands
        b = made.b[z] if self.problem.second is SecondOperand.NK else made.b[z].T
        a_scale = None if made.a_scale is None else made.a_scale[z]
        b_scale = None if made.b_scale is None else made.b_scale[z]
        arithmetic = gemm_arithmetic(
            self.problem.single, decode=self._decode, interpreted=self._interpreted
        )
        return gemm_reference(
            dequantize(made.a[z], a_scale, recipe.activation),
            dequantize(b, b_scale, recipe.weight),
            arithmetic,
        )

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return self.verdict(self.operands.c)

    def verdict(self, out: torch.Tensor) -> Accuracy:
        """Judge an output, matrix by matrix; references are not kept, they are large."""
        worst, error2, size2, reason = 0.0, 0.0, 0.0, ""
        for z in range(self.problem.batch):
            reference = self.reference(z)
            found = compare(out[z], reference)
            worst = max(worst, found.max_error_over_bound)
            size = float(reference.exact.square().sum())
            error2 += found.relative_rms**2 * size
            size2 += size
            if found.reason and not reason:
                reason = f"matrix {z}: {found.reason}"
        relative = math.sqrt(error2 / size2) if size2 else math.sqrt(error2)
        return Accuracy(
            ok=not reason, max_error_over_bound=worst, relative_rms=relative, reason=reason
        )

    def compile(self, config: TileConfig) -> None:
        gemm_batched.precompile(**self._arguments(self._blank(), config))

    @property
    def set_bytes(self) -> int:
        tensors = (getattr(self.operands, f.name) for f in fields(self.operands))
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)
