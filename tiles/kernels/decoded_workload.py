"""A decoded product opened on a device: packed operands, launches, and the check of the answer.

The check is that of any product (see :mod:`tiles.kernels.accuracy`) with the arithmetic of 16-bit
tensor cores: decoding is exact.  Where a folded E8M0 scale carries a number out of bf16's range,
the reference multiplies what bf16 makes of it, as the kernel does.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import torch

from tiles.formats import TensorFormat, pack_codes
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import Arithmetic, gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.decoded_formats import inner_problem, template_element
from tiles.kernels.gemm_workload import multiprocessors
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import gemm_decoded, tile_scales
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.kernels.triton.decoded_staging import workspace_bytes
from tiles.problems import Gemm
from tiles.recipes import recipe

__all__ = ["DecodedGemmWorkload", "multiplied_values", "stored_matrix"]

#: Its arithmetic stands for block-scaled tensor cores, which keep more than Hopper's 8-bit floats.
_EIGHT_BIT = Gemm(m=1, n=1, k=1, recipe=recipe("e4m3-tensor"))


def stored_matrix(quantized: QuantizedTensor) -> StoredMatrix:
    """A quantised matrix as the kernel reads it."""
    fmt, scaling = quantized.format, quantized.format.scaling
    element = template_element(fmt.element)
    assert element is not None
    if element.kind == "plain":
        columns = quantized.codes.shape[1]
        return StoredMatrix(codes=quantized.codes.contiguous(), columns=columns, element=element)
    bits = quantized.bits.contiguous()
    packed = bits if element.bits == 8 else pack_codes(bits, element.bits)
    found = StoredMatrix(codes=packed, columns=bits.shape[1], element=element)
    if scaling is None:
        return found
    outer = quantized.tensor_scale
    return replace(
        found,
        scales=quantized.scales if scaling.stored.name == "fp32" else quantized.scale_bits,
        block=(scaling.rows or 0, scaling.cols or 0),
        stored=scaling.stored.name,
        tensor_scale=None if outer is None else outer.reshape(1),
        zero_points=None if quantized.zero_points is None else quantized.zero_points.contiguous(),
    )


def multiplied_values(quantized: QuantizedTensor, wide: str) -> torch.Tensor:
    """(rows, columns) float64 that the product multiplies, all scales included."""
    scaling = quantized.format.scaling
    if scaling is None or scaling.stored.name != "e8m0fnu":
        return quantized.dequantize(torch.float64)
    # Exact in fp32, but for what lies beyond its range, which bf16 shares.
    return quantized.dequantize(torch.float32).to(CODE_DTYPES[wide]).to(torch.float64)


def _clone(side: StoredMatrix) -> StoredMatrix:
    def copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        fresh = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        return fresh.copy_(tensor)

    codes = copy(side.codes)
    assert codes is not None
    return replace(
        side,
        codes=codes,
        scales=copy(side.scales),
        tensor_scale=copy(side.tensor_scale),
        zero_points=copy(side.zero_points),
    )


class DecodedGemmWorkload(CopiedWorkload[tuple[StoredMatrix, StoredMatrix, torch.Tensor]]):
    """Random normal operands, quantised under the recipe, kept on ``device``."""

    problem: Gemm

    def __init__(
        self, problem: Gemm, *, device: str, seed: int, num_sms: int | None = None
    ) -> None:
        """Open the problem; operands are drawn on first use.

        Args:
            problem: the product.
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds A and B.
            num_sms: programs of a persistent launch; default: the device's multiprocessors.
        """
        self.problem = problem
        self.device = device
        self._interpreted = torch.device(device).type == "cpu"
        self._num_sms = multiprocessors(device) if num_sms is None else num_sms
        self._seed = seed
        self._inner = inner_problem(problem)
        self._references: dict[bool, Reference] = {}

    @property
    def _formats(self) -> tuple[tuple[int, TensorFormat], tuple[int, TensorFormat]]:
        recipe = self.problem.recipe
        return (self.problem.m, recipe.activation), (self.problem.n, recipe.weight)

    @cached_property
    def drawn(self) -> tuple[QuantizedTensor, QuantizedTensor]:
        """The quantised operands; drawn on first use: compiling needs neither."""
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        found = []
        for rows, fmt in self._formats:
            x = torch.randn(rows, self.problem.k, generator=generator, device=self.device)
            found.append(quantize_tensor(x, fmt, seed=self._seed))
        return found[0], found[1]

    def _output(self) -> torch.Tensor:
        dtype = CODE_DTYPES[self.problem.out]
        return torch.empty(self.problem.m, self.problem.n, dtype=dtype, device=self.device)

    def _copy(self) -> tuple[StoredMatrix, StoredMatrix, torch.Tensor]:
        a, b = (_clone(stored_matrix(quantized)) for quantized in self.drawn)
        return a, b, self._output()

    @cached_property
    def _decoded(self) -> torch.Tensor:
        """Workspace of staged configurations; launches on one stream share it."""
        return self._workspace()

    def _workspace(self) -> torch.Tensor:
        size = workspace_bytes({"staged": True}, *self.problem.shape)
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _launcher(
        self, operands: tuple[StoredMatrix, StoredMatrix, torch.Tensor], config: TileConfig
    ) -> Callable[[], None]:
        fields = config.to_dict()
        workspace = self._decoded if fields["staged"] else None

        def run() -> None:
            with exact_interpreter(tile_scales) if self._interpreted else nullcontext():
                gemm_decoded.launch(
                    *operands, config=fields, workspace=workspace, num_sms=self._num_sms
                )

        return run

    @property
    def arithmetic(self) -> Arithmetic:
        """How a product of decoded operands adds up."""
        return gemm_arithmetic(self._inner, decode=True, interpreted=self._interpreted)

    def reference(self, *, native: bool = False) -> Reference:
        """The exact product and its limits, computed once for each ``native``."""
        if native not in self._references:
            wide = self._inner.recipe.activation.element.name
            if native:
                a, b = (quantized.dequantize(torch.float64) for quantized in self.drawn)
                arithmetic = gemm_arithmetic(_EIGHT_BIT, decode=False)
                arithmetic = replace(
                    arithmetic, output=gemm_arithmetic(self._inner, decode=True).output
                )
            else:
                a, b = (multiplied_values(quantized, wide) for quantized in self.drawn)
                arithmetic = self.arithmetic
            self._references[native] = gemm_reference(a, b, arithmetic)
        return self._references[native]

    def check(self, config: TileConfig) -> Accuracy:
        self.operands[2].fill_(float("nan"))
        if config.to_dict()["staged"]:
            self._decoded.fill_(0xFF)  # NaNs: what is not decoded shows
        self._launcher(self.operands, config)()
        return compare(self.operands[2], self.reference(native=bool(config.to_dict()["native"])))

    def compile(self, config: TileConfig) -> None:
        fields = config.to_dict()
        a, b = (self._blank(rows, fmt) for rows, fmt in self._formats)
        gemm_decoded.precompile(
            a,
            b,
            self._output(),
            config=fields,
            workspace=self._workspace() if fields["staged"] else None,
            num_sms=self._num_sms,
        )

    def _blank(self, rows: int, fmt: TensorFormat) -> StoredMatrix:
        """An operand of the right shapes, dtypes and strides with whatever the memory holds.

        No kernel runs on a device: compilers that work ahead must not disturb what is being timed.
        """
        k, scaling = self.problem.k, fmt.scaling
        like = stored_matrix(quantize_tensor(torch.zeros(1, k), fmt))
        codes = torch.empty(rows, like.codes.shape[1], dtype=like.codes.dtype, device=self.device)
        if scaling is None:
            return replace(like, codes=codes)
        grid = scaling.grid(rows, k)
        assert like.scales is not None
        layout = torch.empty(grid, dtype=like.scales.dtype, device=self.device)
        if scaling.stored.name == "fp32" and scaling.rows == 1 and scaling.cols is not None:
            padded = -(-grid[0] // 4) * 4
            layout = torch.empty_strided(grid, (1, padded), device=self.device)
        zeros, outer = like.zero_points, like.tensor_scale
        return replace(
            like,
            codes=codes,
            scales=layout,
            zero_points=None
            if zeros is None
            else torch.empty(grid, dtype=torch.uint8, device=self.device),
            tensor_scale=None if outer is None else torch.empty(1, device=self.device),
        )

    @property
    def set_bytes(self) -> int:
        a, b, c = self.operands
        tensors = (*a.tensors.values(), *b.tensors.values(), c)
        return sum(t.numel() * t.element_size() for t in tensors)
