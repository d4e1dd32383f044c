"""A scaled GEMM opened on a device: random operands, launches, and the check of the answer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tiles.formats import FloatElement, IntElement, Scaling, TensorFormat
from tiles.kernels.accuracy import Reference, compare, gemm_arithmetic, gemm_reference
from tiles.kernels.base import Accuracy, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.triton import gemm_scaled
from tiles.problems import Gemm

__all__ = ["GemmWorkload", "Operands", "dequantize", "launch_block", "quantize", "store_scales"]

_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
#: First NVIDIA capability whose tensor cores multiply 8-bit floats.
_FP8_CAPABILITY = (8, 9)


def launch_block(fmt: TensorFormat) -> tuple[int, int] | None:
    """(rows, cols) under one scale as the kernel takes them: 0 = whole extent, None = unscaled."""
    if fmt.scaling is None:
        return None
    return fmt.scaling.rows or 0, fmt.scaling.cols or 0


def _block_extents(scaling: Scaling, rows: int, cols: int) -> tuple[int, int]:
    return scaling.rows or rows, scaling.cols or cols


def quantize(x: torch.Tensor, fmt: TensorFormat) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Quantise a matrix; bit for bit what :func:`tiles.formats.quantize` computes.

    Args:
        x: (rows, cols) float32, finite.
        fmt: target format; 16-bit elements without scaling are plain casts.
    Returns:
        codes (rows, cols) in the element's dtype, and the fp32 scale grid, contiguous
        (``None`` without scaling).
    """
    dtype = _DTYPES[fmt.element.name]
    if fmt.scaling is None:
        return x.to(dtype), None
    rows, cols = x.shape
    block_rows, block_cols = _block_extents(fmt.scaling, rows, cols)
    padded = torch.nn.functional.pad(x, (0, -cols % block_cols, 0, -rows % block_rows))
    blocks = padded.view(
        padded.shape[0] // block_rows, block_rows, padded.shape[1] // block_cols, block_cols
    )
    amax = blocks.abs().amax(dim=(1, 3))
    # A Python scalar as divisor would become a multiplication by its reciprocal on CUDA.
    scales = amax / torch.full_like(amax, fmt.element.max)
    scales = torch.where(scales == 0, torch.ones_like(scales), scales)
    ratio = blocks / scales[:, None, :, None]
    if isinstance(fmt.element, IntElement):
        ratio = ratio.round()
    # Casts of large values to 8-bit floats differ between torch versions: clamp first.
    codes = ratio.clamp(-fmt.element.max, fmt.element.max).to(dtype)
    return codes.view(padded.shape)[:rows, :cols].contiguous(), scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor | None, fmt: TensorFormat) -> torch.Tensor:
    """Exact values (rows, cols) float64 that codes stand for: code x scale."""
    values = codes.to(torch.float32).to(torch.float64)
    if scales is None or fmt.scaling is None:
        return values
    rows, cols = codes.shape
    block_rows, block_cols = _block_extents(fmt.scaling, rows, cols)
    # One scale grid row (or column) at a time would be slow; the two repeats are small beside K.
    spread = scales.to(torch.float64).repeat_interleave(block_cols, dim=1)[:, :cols]
    return values.mul_(spread.repeat_interleave(block_rows, dim=0)[:rows])


def store_scales(scales: torch.Tensor, fmt: TensorFormat) -> torch.Tensor:
    """A fresh copy of a scale grid in the layout that its format is stored in.

    Scales of 1xB blocks are stored with rows contiguous, rows padded to a multiple of 4; all others
    row-major.
    """
    if fmt.scaling is None or fmt.scaling.rows != 1 or fmt.scaling.cols is None:
        return scales.clone(memory_format=torch.contiguous_format)
    rows, blocks = scales.shape
    storage = torch.zeros(blocks, rows + -rows % 4, dtype=scales.dtype, device=scales.device)
    stored = storage[:, :rows].T
    stored.copy_(scales)
    return stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """One copy of a product's operands and output."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a_scale: torch.Tensor | None
    b_scale: torch.Tensor | None


class GemmWorkload(Workload):
    """Random normal operands, quantised under the recipe, kept on ``device``."""

    problem: Gemm

    def __init__(
        self,
        problem: Gemm,
        *,
        device: str,
        seed: int,
        decode: bool | None = None,
        num_sms: int | None = None,
    ) -> None:
        """Draw and quantise the operands.

        Args:
            problem: the product.
            device: ``cuda``, ``cuda:1``, ... or ``cpu`` (Triton's interpreter).
            seed: seeds A and B.
            decode: multiply 8-bit floats as fp16; default: where the device has no other way.
            num_sms: programs of a persistent launch; default: the device's multiprocessors.
        """
        self.problem = problem
        self.device = device
        on_gpu = torch.device(device).type == "cuda"
        self._interpreted = not on_gpu
        if num_sms is None:
            # The interpreter has no multiprocessors; three programs share the tiles unevenly.
            num_sms = (
                torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 3
            )
        self._num_sms = num_sms
        self._decode = self._must_decode() if decode is None else decode
        generator = torch.Generator(device=device).manual_seed(seed)
        recipe = problem.recipe
        drawn = []
        for rows, fmt in ((problem.m, recipe.activation), (problem.n, recipe.weight)):
            x = torch.randn(rows, problem.k, generator=generator, device=device)
            drawn.append(quantize(x, fmt))
        (self._a, self._a_scale), (self._b, self._b_scale) = drawn
        self._set = self._copy()
        self._reference: Reference | None = None

    def _must_decode(self) -> bool:
        recipe = self.problem.recipe
        elements = (recipe.activation.element, recipe.weight.element)
        if not any(isinstance(e, FloatElement) and e.bits == 8 for e in elements):
            return False
        if self._interpreted:
            return False
        if torch.version.hip is not None:
            return True
        return torch.cuda.get_device_capability(self.device) < _FP8_CAPABILITY

    def _copy(self) -> Operands:
        recipe = self.problem.recipe
        scales = [
            None if scale is None else store_scales(scale, fmt)
            for scale, fmt in (
                (self._a_scale, recipe.activation),
                (self._b_scale, recipe.weight),
            )
        ]
        return Operands(
            a=self._a.clone(),
            b=self._b.clone(),
            c=torch.empty(
                self.problem.m,
                self.problem.n,
                dtype=_DTYPES[self.problem.out],
                device=self.device,
            ),
            a_scale=scales[0],
            b_scale=scales[1],
        )

    @property
    def operands(self) -> Operands:
        """The copy that :meth:`check` uses."""
        return self._set

    @property
    def decode(self) -> bool:
        """True when 8-bit floats are multiplied as fp16."""
        return self._decode

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        recipe = self.problem.recipe
        fields = config.to_dict()
        a_block, b_block = launch_block(recipe.activation), launch_block(recipe.weight)

        def run() -> None:
            gemm_scaled.launch(
                operands.a,
                operands.b,
                operands.c,
                operands.a_scale,
                operands.b_scale,
                a_block=a_block,
                b_block=b_block,
                config=fields,
                decode=self._decode,
                num_sms=self._num_sms,
            )

        return run

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        copies = [self._set, *(self._copy() for _ in range(sets - 1))]
        return [self._launcher(copy, config) for copy in copies]

    def reference(self) -> Reference:
        """The exact product and its limits, computed once."""
        if self._reference is None:
            recipe = self.problem.recipe
            self._reference = gemm_reference(
                dequantize(self._a, self._a_scale, recipe.activation),
                dequantize(self._b, self._b_scale, recipe.weight),
                gemm_arithmetic(self.problem, decode=self._decode, interpreted=self._interpreted),
            )
        return self._reference

    def check(self, config: TileConfig) -> Accuracy:
        self._set.c.fill_(float("nan"))
        self._launcher(self._set, config)()
        return compare(self._set.c, self.reference())

    def compile(self, config: TileConfig) -> None:
        recipe = self.problem.recipe
        gemm_scaled.precompile(
            self._set.a,
            self._set.b,
            self._set.c,
            self._set.a_scale,
            self._set.b_scale,
            a_block=launch_block(recipe.activation),
            b_block=launch_block(recipe.weight),
            config=config.to_dict(),
            decode=self._decode,
            num_sms=self._num_sms,
        )

    @property
    def set_bytes(self) -> int:
        operands = self._set
        tensors = (operands.a, operands.b, operands.c, operands.a_scale, operands.b_scale)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)
