"""The Hopper GEMM with scales in blocks opened on a device, and the check of its codes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import empty_scales, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.accuracy_of_runs import allow_runs, scales_that_count
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_blocks
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.exact_difference import first_difference, poison
from tiles.kernels.gemm_workload import GemmWorkload, Operands, dequantize
from tiles.kernels.hopper_block_gemm import HopperBlockGemmConfig
from tiles.kernels.hopper_block_rules import block_scales

__all__ = ["SEED", "BlockOperands", "HopperBlockWorkload", "exact_values"]

#: Key of stochastic rounding in checked and timed launches.
SEED = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOperands(Operands):
    """One copy of operands and output; codes have scales beside them."""

    c_scale: torch.Tensor | None = None


def exact_values(
    codes: torch.Tensor, scales: torch.Tensor | None, fmt: TensorFormat
) -> torch.Tensor:
    """What codes stand for, (rows, cols) float64; MXINT8's are held as int8."""
    values = dequantize(codes, scales, fmt)
    return values * 2.0**-6 if fmt.element.name == "mxint8" else values


class HopperBlockWorkload(GemmWorkload):
    """Random normal operands, quantised under the recipe, multiplied by ``gemm_hopper_blocks.cu``.

    Codes are right when they are those of the torch codec for the same product in fp32, bit for
    bit, and that lies within the bound of the fp64 product.
    """

    @cached_property
    def _drawn(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        recipe = self.problem.recipe
        drawn: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for rows, fmt in ((self.problem.m, recipe.activation), (self.problem.n, recipe.weight)):
            x = torch.randn(rows, self.problem.k, generator=generator, device=self.device)
            quantized = quantize_tensor(x, fmt)
            drawn.append((quantized.codes.view(_code_dtype(fmt)), quantized.scales))
        return drawn

    def _blank(self) -> BlockOperands:
        recipe, k = self.problem.recipe, self.problem.k
        sides = []
        for rows, fmt in ((self.problem.m, recipe.activation), (self.problem.n, recipe.weight)):
            assert fmt.scaling is not None
            codes = torch.empty(rows, k, dtype=_code_dtype(fmt), device=self.device)
            sides.append((codes, empty_scales(rows, k, fmt.scaling, self.device)))
        (a, a_scale), (b, b_scale) = sides
        return self._with_output(a, b, a_scale, b_scale)

    def _copy(self) -> BlockOperands:
        (a, a_scale), (b, b_scale) = self._drawn
        recipe = self.problem.recipe
        return self._with_output(
            a.clone(),
            b.clone(),
            self._copy_scales(a_scale, self.problem.m, recipe.activation),
            self._copy_scales(b_scale, self.problem.n, recipe.weight),
        )

    def _with_output(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        a_scale: torch.Tensor | None,
        b_scale: torch.Tensor | None,
    ) -> BlockOperands:
        m, n, output = self.problem.m, self.problem.n, self.problem.output
        c_scale = None
        if output.scaling is not None:
            c_scale = empty_scales(m, n, output.scaling, self.device)
        c = torch.empty(m, n, dtype=CODE_DTYPES[output.element.name], device=self.device)
        return BlockOperands(a=a, b=b, c=c, a_scale=a_scale, b_scale=b_scale, c_scale=c_scale)

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
        assert isinstance(operands, BlockOperands)
        recipe = self.problem.recipe
        views = {
            name: None if tensor is None else cupy_view(tensor)
            for name, tensor in (
                ("a", operands.a),
                ("b", operands.b),
                ("c", operands.c),
                ("a_scale", operands.a_scale),
                ("b_scale", operands.b_scale),
                ("c_scale", operands.c_scale),
            )
        }
        return views | {
            "element": recipe.activation.element.name,
            "out": self.problem.out,
            "scales": block_scales(recipe.activation, recipe.weight),
            "config": config.to_dict(),
        }

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            gemm_hopper_blocks.launch(**arguments, seed=SEED, stream=cupy_stream(self.device))

        return run

    def compile(self, config: TileConfig) -> None:
        gemm_hopper_blocks.precompile(**self._arguments(self._blank(), config))

    @cached_property
    def _in_fp32(self) -> "HopperBlockWorkload":
        """The same operands with the product in fp32."""
        twin = HopperBlockWorkload(
            replace(self.problem, out="fp32"), device=self.device, seed=self._seed
        )
        twin._drawn = self._drawn
        return twin

    def reference(self) -> Reference:
        """The exact product and its limits, computed once; of codes that of their fp32 product."""
        if self.problem.output.scaling is not None:
            return self._in_fp32.reference()
        if self._reference is None:
            recipe = self.problem.recipe
            a, b = self._drawn
            self._reference = gemm_reference(
                exact_values(*a, recipe.activation),
                exact_values(*b, recipe.weight),
                gemm_arithmetic(self.problem, decode=False),
            )
        return self._reference

    @cached_property
    def _reference_of_runs(self) -> Reference:
        """The reference of configurations whose accumulators run on over units."""
        recipe = self.problem.recipe
        sides = []
        for (codes, scales), fmt in zip(
            self._drawn, (recipe.activation, recipe.weight), strict=True
        ):
            assert scales is not None
            assert fmt.scaling is not None
            assert fmt.scaling.cols is not None
            sides.append(scales_that_count(codes, scales, fmt.scaling.cols))
        epsilon = float(torch.finfo(self.operands.c.dtype).eps)
        return allow_runs(self.reference(), sides[0], sides[1], epsilon)

    def check(self, config: TileConfig) -> Accuracy:
        assert isinstance(config, HopperBlockGemmConfig)
        output = self.problem.output
        operands = self.operands
        if output.scaling is None:
            operands.c.fill_(float("nan"))
            self._launcher(operands, config)()
            runs = config.run > 1
            return compare(operands.c, self._reference_of_runs if runs else self.reference())
        twin = self._in_fp32
        accuracy = twin.check(config)
        if not accuracy.ok:
            return accuracy
        assert isinstance(operands, BlockOperands)
        assert operands.c_scale is not None
        poison(operands.c.view(torch.uint8))
        poison(operands.c_scale)
        self._launcher(operands, config)()
        wanted = quantize_tensor(twin.operands.c, output, seed=SEED)
        assert wanted.scales is not None
        reason = first_difference("scale", operands.c_scale, wanted.scales)
        reason = reason or first_difference(
            "code", operands.c.view(torch.uint8), wanted.codes.view(torch.uint8)
        )
        return replace(accuracy, ok=not reason, reason=reason) if reason else accuracy

    @property
    def set_bytes(self) -> int:
        operands = self.operands
        assert isinstance(operands, BlockOperands)
        extra = operands.c_scale
        return super().set_bytes + (0 if extra is None else extra.numel() * extra.element_size())


def _code_dtype(fmt: TensorFormat) -> torch.dtype:
    return torch.int8 if fmt.element.name == "mxint8" else CODE_DTYPES[fmt.element.name]
