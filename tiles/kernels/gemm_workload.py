"""A scaled GEMM opened on a device: random operands, launches, and the check of the answer.

The check is that of :mod:`tiles.kernels.accuracy`, for programs that share K as well: each begins
with a sum of zero, to which its first product is added exactly, so that adding the shares up costs
no more roundings than the bound has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from tiles.formats import FloatElement, Scaling, TensorFormat
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.quantize_torch import quantize_torch
from tiles.kernels.triton import gemm_scaled
from tiles.kernels.triton.gemm_arguments import shares_k
from tiles.kernels.triton.split_workspace import MAX_SPLIT_TILES, workspace_words
from tiles.problems import Gemm
from tiles.recipes import Recipe

__all__ = [
    "GemmWorkload",
    "Operands",
    "copied",
    "dequantize",
    "launch_block",
    "multiprocessors",
    "must_decode",
]

#: First NVIDIA capability whose tensor cores multiply 8-bit floats.
_FP8_CAPABILITY = (8, 9)


def launch_block(fmt: TensorFormat) -> tuple[int, int] | None:
    """(rows, cols) under one scale as the kernel takes them: 0 = whole extent, None = unscaled."""
    if fmt.scaling is None:
        return None
    return fmt.scaling.rows or 0, fmt.scaling.cols or 0


def dequantize(codes: torch.Tensor, scales: torch.Tensor | None, fmt: TensorFormat) -> torch.Tensor:
    """Exact values (rows, cols) float64 that codes stand for: code x scale."""
    values = codes.to(torch.float32).to(torch.float64)
    if scales is None or fmt.scaling is None:
        return values
    rows, cols = codes.shape
    block_rows, block_cols = fmt.scaling.rows or rows, fmt.scaling.cols or cols
    # One scale grid row (or column) at a time would be slow; the two repeats are small beside K.
    spread = scales.to(torch.float64).repeat_interleave(block_cols, dim=1)[:, :cols]
    return values.mul_(spread.repeat_interleave(block_rows, dim=0)[:rows])


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides in other memory; ``clone`` would close gaps between rows."""
    fresh = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return fresh.copy_(tensor)


def multiprocessors(device: str) -> int:
    """Multiprocessors of a CUDA device; 3 for the interpreter, which share tiles unevenly."""
    if torch.device(device).type != "cuda":
        return 3
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def must_decode(recipe: Recipe, device: str) -> bool:
    """Whether the device's tensor cores do not take the recipe's 8-bit floats."""
    elements = (recipe.activation.element, recipe.weight.element)
    if not any(isinstance(e, FloatElement) and e.bits == 8 for e in elements):
        return False
    if torch.device(device).type != "cuda":
        return False
    if torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) < _FP8_CAPABILITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """One copy of a product's operands and output."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    a_scale: torch.Tensor | None
    b_scale: torch.Tensor | None


class GemmWorkload(CopiedWorkload[Operands]):
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
        self._interpreted = torch.device(device).type != "cuda"
        self._num_sms = multiprocessors(device) if num_sms is None else num_sms
        self._decode = must_decode(problem.recipe, device) if decode is None else decode
        self._seed = seed
        self._reference: Reference | None = None

    @cached_property
    def _drawn(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Codes and scales of A and B, drawn on first use: compiling needs none of them."""
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        recipe = self.problem.recipe
        drawn = []
        for rows, fmt in ((self.problem.m, recipe.activation), (self.problem.n, recipe.weight)):
            x = torch.randn(rows, self.problem.k, generator=generator, device=self.device)
            drawn.append(quantize_torch(x, fmt))
        return drawn

    def _blank(self) -> Operands:
        """Operands of the right shapes, dtypes and strides with whatever the memory holds.

        No kernel runs: compilers that work ahead must not disturb what is being timed.
        """
        sides = []
        recipe = self.problem.recipe
        for rows, fmt in ((self.problem.m, recipe.activation), (self.problem.n, recipe.weight)):
            codes = torch.empty(
                rows, self.problem.k, dtype=CODE_DTYPES[fmt.element.name], device=self.device
            )
            scale = None
            if fmt.scaling is not None:
                scale = self._blank_scales(rows, fmt.scaling)
            sides.append((codes, scale))
        (a, a_scale), (b, b_scale) = sides
        return Operands(a=a, b=b, c=self._output(), a_scale=a_scale, b_scale=b_scale)

    def _output(self) -> torch.Tensor:
        return torch.empty(
            self.problem.m, self.problem.n, dtype=CODE_DTYPES[self.problem.out], device=self.device
        )

    def _copy(self) -> Operands:
        (a, a_scale), (b, b_scale) = self._drawn
        return Operands(
            a=a.clone(),
            b=b.clone(),
            c=self._output(),
            a_scale=self._copy_scales(a_scale, self.problem.m, self.problem.recipe.activation),
            b_scale=self._copy_scales(b_scale, self.problem.n, self.problem.recipe.weight),
        )

    def _copy_scales(
        self, scales: torch.Tensor | None, rows: int, fmt: TensorFormat
    ) -> torch.Tensor | None:
        """A copy in the same layout; ``clone`` would not keep the padding between rows."""
        if scales is None or fmt.scaling is None:
            return None
        return self._blank_scales(rows, fmt.scaling).copy_(scales)

    def _blank_scales(self, rows: int, scaling: Scaling) -> torch.Tensor:
        """Scales in the dtype that they are stored in (E8M0: as fp32), laid out as the codec's."""
        layout = empty_scales(rows, self.problem.k, scaling, self.device)
        dtype = CODE_DTYPES.get(scaling.stored.name, torch.float32)
        return torch.empty_strided(layout.shape, layout.stride(), dtype=dtype, device=layout.device)

    @property
    def decode(self) -> bool:
        """True when 8-bit floats are multiplied as fp16."""
        return self._decode

    def _blank_workspace(self, config: TileConfig) -> torch.Tensor | None:
        """Memory of the right size for a configuration whose programs share K."""
        fields, (m, n, k) = config.to_dict(), self.problem.shape
        words = workspace_words(fields, m, n, k, self._num_sms) if shares_k(fields) else 0
        return torch.empty(words, dtype=torch.int32, device=self.device) if words else None

    def _workspace(self, config: TileConfig) -> torch.Tensor | None:
        """Counters of zero, and NaN where partial sums go: what is not written shows."""
        workspace = self._blank_workspace(config)
        if workspace is not None:
            workspace[:MAX_SPLIT_TILES] = 0
            workspace[MAX_SPLIT_TILES:] = -1
        return workspace

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        recipe = self.problem.recipe
        fields = config.to_dict()
        workspace = self._workspace(config)
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
                workspace=workspace,
            )

        return run

    def reference(self) -> Reference:
        """The exact product and its limits, computed once."""
        if self._reference is None:
            recipe = self.problem.recipe
            self._reference = gemm_reference(
                dequantize(*self._drawn[0], recipe.activation),
                dequantize(*self._drawn[1], recipe.weight),
                gemm_arithmetic(self.problem, decode=self._decode, interpreted=self._interpreted),
            )
        return self._reference

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return compare(self.operands.c, self.reference())

    def compile(self, config: TileConfig) -> None:
        recipe = self.problem.recipe
        blank = self._blank()
        gemm_scaled.precompile(
            blank.a,
            blank.b,
            blank.c,
            blank.a_scale,
            blank.b_scale,
            a_block=launch_block(recipe.activation),
            b_block=launch_block(recipe.weight),
            config=config.to_dict(),
            decode=self._decode,
            num_sms=self._num_sms,
            workspace=self._blank_workspace(config),
        )

    @property
    def set_bytes(self) -> int:
        operands = self.operands
        tensors = (operands.a, operands.b, operands.c, operands.a_scale, operands.b_scale)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)
