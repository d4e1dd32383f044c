"""A product with outliers apart opened on a device: operands, launches, the check of the answer.

**Bound.**  What is added, side by side along K, is one product: codes of A and kept columns, or
first and second codes of the blocks, by the same columns of B.  The bounds of
:mod:`tiles.kernels.accuracy` hold for that product, with the arithmetic of its worst part.

Kept columns: the integer part is exact until it is scaled (three roundings), the rest is added to
it by tensor cores in O of the K + O columns, whose largest partial sum is that of the whole.  The
bound grants truncation in all of them, t = 24 and d = 16, so it is wider than need be by about
``sqrt((K + O) / O)`` in its random part: at K = 4096 some 7e-4 of q, where half an ulp is 5e-4 of
an fp16 output and 4e-3 of a bf16 one.  One outlier that is left out moves its row by far more.  The
scaled integer part may be larger than the result: three roundings of ``|int| <= sqrt(K)·q`` stay
below the random part, ``2·L²·sqrt(K + O)·q`` of the same unit.

Fallback blocks: int8 promoted every block, ``2 K / cols`` blocks at most.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import Arithmetic, gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.gemm_workload import copied, dequantize, launch_block
from tiles.kernels.outlier_gemm import expected_columns, fallback_capacity, inner_problem
from tiles.kernels.outlier_packing import (
    PackedActivations,
    column_capacity,
    pack_blocks,
    pack_columns,
)
from tiles.kernels.quantize_torch import quantize_torch
from tiles.kernels.triton import gemm_outliers
from tiles.kernels.triton.outlier_operands import FallbackBlocks, KeptColumns
from tiles.problems import Gemm
from tiles.recipes import OutlierBlocks, OutlierColumns

__all__ = ["OutlierGemmWorkload", "OutlierOperands", "arithmetic_of", "second_values"]

#: Room for kept columns beyond those that are planted: normal values may cross a threshold.
_SPARE_COLUMNS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierOperands:
    """One copy of a product's operands and output."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a_scale: torch.Tensor
    b_scale: torch.Tensor
    outliers: KeptColumns | FallbackBlocks

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        return [self.a, self.b, self.c, self.a_scale, self.b_scale, *self.outliers.tensors.values()]


def arithmetic_of(problem: Gemm, *, interpreted: bool) -> Arithmetic:
    """How a product with outliers apart is bounded, see the module's docstring."""
    codes = gemm_arithmetic(inner_problem(problem), decode=False, interpreted=interpreted)
    if isinstance(problem.recipe.outliers, OutlierBlocks):
        return codes
    return replace(codes, significand_bits=24, depth=16)


def second_values(fallback: FallbackBlocks, m: int, k: int) -> torch.Tensor:
    """(M, K) float64: what the second codes stand for, zeros where no block falls back."""
    high, wide = fallback.codes.shape[1:]
    grid_m, grid_k = -(-m // high), -(-k // wide)
    values = torch.zeros(
        grid_m, grid_k, high, wide, dtype=torch.float64, device=fallback.codes.device
    )
    for row in range(grid_m):
        mine = slice(int(fallback.offsets[row]), int(fallback.offsets[row + 1]))
        codes = fallback.codes[mine].to(torch.float64)
        scales = fallback.scales[mine].to(torch.float64)
        values[row, fallback.columns[mine].to(torch.int64)] = codes * scales[:, None, None]
    return values.transpose(1, 2).reshape(grid_m * high, grid_k * wide)[:m, :k]


def _copied(outliers: KeptColumns | FallbackBlocks) -> KeptColumns | FallbackBlocks:
    fresh = {name: copied(tensor) for name, tensor in outliers.tensors.items()}
    return KeptColumns(**fresh) if isinstance(outliers, KeptColumns) else FallbackBlocks(**fresh)


class OutlierGemmWorkload(CopiedWorkload[OutlierOperands]):
    """Random normal operands with outliers planted, packed under the recipe."""

    problem: Gemm

    def __init__(self, problem: Gemm, *, device: str, seed: int) -> None:
        """Take a problem.

        Args:
            problem: the product.
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds A and B, and which columns hold outliers.
        """
        self.problem = problem
        self.device = device
        self._interpreted = torch.device(device).type != "cuda"
        self._seed = seed
        self._reference: Reference | None = None

    @cached_property
    def drawn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations (M, K) and weights (N, K), fp32."""
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        m, n, k = self.problem.shape
        x, w = (torch.randn(rows, k, generator=generator, device=self.device) for rows in (m, n))
        if isinstance(outliers := self.problem.recipe.outliers, OutlierColumns):
            places = torch.randperm(k, generator=generator, device=self.device)
            places = places[: expected_columns(k)]
            x[:, places] += torch.sign(x[:, places]) * (2 * outliers.threshold)
        return x, w

    @cached_property
    def packed(self) -> PackedActivations:
        """The activations as the recipe stores them."""
        recipe = self.problem.recipe
        x, w = self.drawn
        if isinstance(recipe.outliers, OutlierColumns):
            return pack_columns(x, w, recipe.activation, recipe.outliers, self.capacity)
        assert isinstance(recipe.outliers, OutlierBlocks)
        return pack_blocks(x, recipe.activation, recipe.outliers)

    @property
    def capacity(self) -> int:
        """Columns, or blocks, that there is memory for."""
        if isinstance(self.problem.recipe.outliers, OutlierColumns):
            return column_capacity(expected_columns(self.problem.k) + _SPARE_COLUMNS)
        return fallback_capacity(self.problem)

    @cached_property
    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = quantize_torch(self.drawn[1], self.problem.recipe.weight)
        assert scales is not None
        return codes, scales

    def _output(self) -> torch.Tensor:
        dtype = CODE_DTYPES[self.problem.out]
        return torch.empty(self.problem.m, self.problem.n, dtype=dtype, device=self.device)

    def _copy(self) -> OutlierOperands:
        packed, (b, b_scale) = self.packed, self._weights
        return OutlierOperands(
            a=copied(packed.codes),
            b=copied(b),
            c=self._output(),
            a_scale=copied(packed.scales),
            b_scale=copied(b_scale),
            outliers=_copied(packed.outliers),
        )

    def _blank(self) -> OutlierOperands:
        """Operands of the right shapes, dtypes and strides with whatever the memory holds."""
        (m, n, k), recipe = self.problem.shape, self.problem.recipe

        def blank(*shape: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=self.device)

        scalings = recipe.activation.scaling, recipe.weight.scaling
        assert scalings[0] is not None
        assert scalings[1] is not None
        outliers: KeptColumns | FallbackBlocks
        if isinstance(recipe.outliers, OutlierColumns):
            dtype = CODE_DTYPES[recipe.outliers.kept.name]
            outliers = KeptColumns(
                a=blank(m, self.capacity, dtype=dtype),
                b=blank(n, self.capacity, dtype=dtype),
                count=blank(1, dtype=torch.int32),
            )
        else:
            high, wide = scalings[0].rows or m, scalings[0].cols or k
            outliers = FallbackBlocks(
                codes=blank(self.capacity, high, wide),
                scales=blank(self.capacity, dtype=torch.float32),
                columns=blank(self.capacity, dtype=torch.int32),
                offsets=blank(-(-m // high) + 1, dtype=torch.int32),
            )
        return OutlierOperands(
            a=blank(m, k),
            b=blank(n, k),
            c=self._output(),
            a_scale=empty_scales(m, k, scalings[0], self.device),
            b_scale=empty_scales(n, k, scalings[1], self.device),
            outliers=outliers,
        )

    def _launcher(self, operands: OutlierOperands, config: TileConfig) -> Callable[[], None]:
        recipe, named = self.problem.recipe, config.to_dict()
        a_block, b_block = launch_block(recipe.activation), launch_block(recipe.weight)
        assert a_block is not None
        assert b_block is not None

        def run() -> None:
            gemm_outliers.launch(
                operands.a,
                operands.b,
                operands.c,
                operands.a_scale,
                operands.b_scale,
                operands.outliers,
                a_block=a_block,
                b_block=b_block,
                config=named,
            )

        return run

    def reference(self) -> Reference:
        """The exact product of codes and outliers with its limits, computed once."""
        if self._reference is None:
            recipe = self.problem.recipe
            packed = self.packed
            a = dequantize(packed.codes, packed.scales, recipe.activation)
            b = dequantize(*self._weights, recipe.weight)
            if isinstance(packed.outliers, KeptColumns):
                kept = (packed.outliers.a, packed.outliers.b)
            else:
                kept = (second_values(packed.outliers, self.problem.m, self.problem.k), b)
            left, right = (
                torch.cat([first, second.to(torch.float64)], dim=1)
                for first, second in zip((a, b), kept, strict=True)
            )
            self._reference = gemm_reference(
                left, right, arithmetic_of(self.problem, interpreted=self._interpreted)
            )
        return self._reference

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return compare(self.operands.c, self.reference())

    def compile(self, config: TileConfig) -> None:
        recipe = self.problem.recipe
        blank = self._blank()
        a_block, b_block = launch_block(recipe.activation), launch_block(recipe.weight)
        assert a_block is not None
        assert b_block is not None
        gemm_outliers.precompile(
            blank.a,
            blank.b,
            blank.c,
            blank.a_scale,
            blank.b_scale,
            blank.outliers,
            a_block=a_block,
            b_block=b_block,
            config=config.to_dict(),
        )

    @property
    def set_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.operands.tensors)
