"""A weight-only product opened on a device: operands, launches, and the check of the answer.

The check is that of any product (see :mod:`tiles.kernels.accuracy`) with the arithmetic of 16-bit
tensor cores.  Two things are this family's own:

* With ``fold``, the kernel multiplies by ``round(round(scale) x (code - zero))`` in the type of the
  activations, so the reference does the same, rounding for rounding.  A weight is then off
  by at most ``(2u + u²)|w|`` from the exact one, u = 2^-8 for bf16 and 2^-11 for fp16; products of
  e2m1fn codes with E8M0 or e4m3fn scales are exact.
* Shares of a split K are added in fp32, one addition of half a unit a share, which has at least
  64 columns.  An MMA step of depth 16 is taken for one of 14, and a bound that grants a truncation
  by a unit each step grants that as well: K/14 > K/16 + K/128.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from tiles.formats import pack_codes
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES, decode
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import Arithmetic, gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.triton import gemm_weight_only
from tiles.kernels.triton.split_workspace import MAX_SPLIT_TILES, workspace_words
from tiles.kernels.triton.weight_layout import PackedWeight, pack
from tiles.kernels.weight_only import WeightOnlyConfig
from tiles.kernels.weight_only_resources import group_columns
from tiles.problems import Gemm

__all__ = ["Operands", "WeightOnlyWorkload", "multiplied_weights", "pack_quantized"]

#: Depth of an MMA step as the bound counts it, see the module's docstring.
_DEPTH = 14


def _by_row(values: torch.Tensor, rows: int, under: int) -> torch.Tensor:
    """One row of scales for each row of weights, row-major; ``under`` rows lie under a scale."""
    return values.repeat_interleave(under, dim=0)[:rows].contiguous()


def pack_quantized(quantized: QuantizedTensor) -> PackedWeight:
    """Lay a quantised weight matrix out for the kernel; (N, K), any format that it serves."""
    fmt = quantized.format
    assert fmt.scaling is not None
    assert quantized.scales is not None
    n, k = quantized.codes.shape
    stored = fmt.scaling.stored.name
    scales = quantized.scales
    group = group_columns(fmt)
    if group and stored == "e8m0fnu":
        scales = quantized.scale_bits
    elif group and stored == "e4m3fn":
        scales = quantized.scale_bits
    elif group:
        scales = scales.to(CODE_DTYPES[stored])
    zeros = quantized.zero_points
    if group:
        under = fmt.scaling.rows or 1
        scales = _by_row(scales, n, under)
        zeros = None if zeros is None else _by_row(zeros, n, under)
    return pack(
        pack_codes(quantized.bits, fmt.element.bits),
        scales.view(torch.float8_e4m3fn) if group and stored == "e4m3fn" else scales,
        element=fmt.element.name,
        columns=k,
        group=group,
        zero_points=zeros,
        tensor_scale=quantized.tensor_scale,
    )


def multiplied_weights(
    quantized: QuantizedTensor, activation: torch.dtype, *, fold: bool
) -> torch.Tensor:
    """(N, K) float64 weights that a configuration multiplies by, scales included."""
    if not fold:
        return quantized.dequantize(torch.float64)
    scaling = quantized.format.scaling
    assert scaling is not None
    assert scaling.cols is not None
    assert quantized.scales is not None
    n, k = quantized.codes.shape

    def spread(grid: torch.Tensor) -> torch.Tensor:
        wide = grid.repeat_interleave(scaling.cols or k, dim=1)[:, :k]
        return wide.repeat_interleave(scaling.rows or n, dim=0)[:n]

    integers = decode(quantized.bits, quantized.format.element)
    if quantized.zero_points is not None:
        integers = integers - spread(quantized.zero_points)
    rounded = integers.to(activation) * spread(quantized.scales.to(activation))
    exact = rounded.to(torch.float64)
    if quantized.tensor_scale is not None:
        exact *= quantized.tensor_scale.to(torch.float64)
    return exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """One copy of a product's operands and output."""

    x: torch.Tensor
    weight: PackedWeight
    c: torch.Tensor


class WeightOnlyWorkload(CopiedWorkload[Operands]):
    """Random normal operands, the weights quantised under the recipe, kept on ``device``."""

    problem: Gemm

    def __init__(self, problem: Gemm, *, device: str, seed: int) -> None:
        """Draw and quantise the operands.

        Args:
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds X and W.
        """
        self.problem = problem
        self.device = device
        self._interpreted = torch.device(device).type == "cpu"
        self._seed = seed
        self._references: dict[bool, Reference] = {}

    @property
    def _activation(self) -> torch.dtype:
        return CODE_DTYPES[self.problem.recipe.activation.element.name]

    @cached_property
    def drawn(self) -> tuple[torch.Tensor, QuantizedTensor]:
        """Activations, and the quantised weights; drawn on first use: compiling needs neither."""
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        m, n, k = self.problem.shape
        x = torch.randn(m, k, generator=generator, device=self.device).to(self._activation)
        w = torch.randn(n, k, generator=generator, device=self.device)
        return x, quantize_tensor(w, self.problem.recipe.weight, seed=self._seed)

    @cached_property
    def _packed(self) -> PackedWeight:
        return pack_quantized(self.drawn[1])

    def _output(self) -> torch.Tensor:
        return torch.empty(
            self.problem.m, self.problem.n, dtype=CODE_DTYPES[self.problem.out], device=self.device
        )

    def _copy(self) -> Operands:
        return Operands(x=self.drawn[0].clone(), weight=self._packed.clone(), c=self._output())

    def _workspace(self, config: TileConfig) -> torch.Tensor | None:
        """Counters of zero, and NaN where partial sums go: what is not written shows."""
        workspace = self._blank_workspace(config)
        if workspace is not None:
            workspace[:MAX_SPLIT_TILES] = 0
            workspace[MAX_SPLIT_TILES:] = -1
        return workspace

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        fields, workspace = config.to_dict(), self._workspace(config)

        def run() -> None:
            gemm_weight_only.launch(
                operands.x, operands.weight, operands.c, config=fields, workspace=workspace
            )

        return run

    def arithmetic(self, *, fold: bool) -> Arithmetic:
        """How a configuration adds up, see the module's docstring."""
        found = gemm_arithmetic(self.problem, decode=True, interpreted=self._interpreted)
        return replace(found, depth=_DEPTH, promote_k=None if fold else found.promote_k)

    def reference(self, *, fold: bool) -> Reference:
        """The product of what is multiplied and its limits, computed once for each ``fold``."""
        if fold not in self._references:
            x, quantized = self.drawn
            self._references[fold] = gemm_reference(
                x.to(torch.float64),
                multiplied_weights(quantized, self._activation, fold=fold),
                self.arithmetic(fold=fold),
            )
        return self._references[fold]

    def check(self, config: TileConfig) -> Accuracy:
        assert isinstance(config, WeightOnlyConfig)
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return compare(self.operands.c, self.reference(fold=config.fold))

    def compile(self, config: TileConfig) -> None:
        m, n, k = self.problem.shape
        x = torch.empty(m, k, dtype=self._activation, device=self.device)
        gemm_weight_only.precompile(
            x,
            self._blank_weight(n, k),
            self._output(),
            config=config.to_dict(),
            workspace=self._blank_workspace(config),
        )

    def _blank_workspace(self, config: TileConfig) -> torch.Tensor | None:
        words = workspace_words(config.to_dict(), self.problem.m, self.problem.n)
        return torch.empty(words, dtype=torch.int32, device=self.device) if words else None

    def _blank_weight(self, n: int, k: int) -> PackedWeight:
        """Weights of the right shapes and dtypes with whatever the memory holds.

        No kernel runs on a device: compilers that work ahead must not disturb what is being timed.
        """
        fmt = self.problem.recipe.weight
        like = pack_quantized(quantize_tensor(torch.zeros(1, k), fmt))

        def empty(tensor: torch.Tensor | None) -> torch.Tensor | None:
            if tensor is None:
                return None
            # The axis of extent 1 is N: the last one of scales of whole panels, else the second.
            shape = [n if axis == _rows_axis(tensor) else s for axis, s in enumerate(tensor.shape)]
            return torch.empty(shape, dtype=tensor.dtype, device=self.device)

        codes, row_scale = empty(like.codes), empty(like.row_scale)
        assert codes is not None
        assert row_scale is not None
        return replace(
            like,
            codes=codes,
            scale=empty(like.scale),
            zero=empty(like.zero),
            row_scale=row_scale,
        )

    @property
    def set_bytes(self) -> int:
        operands = self.operands
        tensors = (operands.x, operands.c, *operands.weight.tensors)
        return sum(t.numel() * t.element_size() for t in tensors)


def _rows_axis(tensor: torch.Tensor) -> int:
    return {1: 0, 2: 1, 3: 1}[tensor.ndim]
