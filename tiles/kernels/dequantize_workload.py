"""A dequantisation opened on a device, and its reference."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.exact_difference import first_difference, poison
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.quantize_tiles_workload import blank_scales, packed_codes, stored_scales
from tiles.kernels.triton import dequantize_tiles, tile_scales
from tiles.problems import Dequantize

__all__ = ["Copy", "DequantizeWorkload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of codes and scales and of what the kernel writes."""

    codes: torch.Tensor
    scales: torch.Tensor
    tensor_scale: torch.Tensor | None
    out: torch.Tensor


class DequantizeWorkload(CopiedWorkload[Copy]):
    """A quantised matrix of random normal values, kept on ``device``."""

    problem: Dequantize

    def _blank(self) -> Copy:
        rows, cols = self.problem.shape
        source = self.problem.source
        assert source.scaling is not None
        wide = -(-cols * source.element.bits // 8)
        outer = None
        if source.scaling.two_level:
            outer = torch.empty(1, dtype=torch.float32, device=self.device)
        return Copy(
            codes=torch.empty(rows, wide, dtype=torch.uint8, device=self.device),
            scales=blank_scales(rows, cols, source, self.device),
            tensor_scale=outer,
            out=torch.empty(rows, cols, dtype=CODE_DTYPES[self.problem.out], device=self.device),
        )

    @cached_property
    def _quantized(self) -> QuantizedTensor:
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        x = torch.randn(self.problem.shape, generator=generator, device=self.device)
        return quantize_tensor(x, self.problem.source, seed=self._seed)

    def _copy(self) -> Copy:
        blank = self._blank()
        quantized, source = self._quantized, self.problem.source
        blank.codes.copy_(packed_codes(quantized.bits, source))
        blank.scales.copy_(stored_scales(quantized))
        if blank.tensor_scale is not None and quantized.tensor_scale is not None:
            blank.tensor_scale.copy_(quantized.tensor_scale)
        return blank

    @cached_property
    def _reference(self) -> torch.Tensor:
        return self._quantized.dequantize().to(CODE_DTYPES[self.problem.out])

    def _arguments(self, copy: Copy, fields: Mapping[str, int | bool]) -> dict[str, Any]:
        source = self.problem.source
        assert source.scaling is not None
        return {
            "codes": copy.codes,
            "scales": copy.scales,
            "out": copy.out,
            "element": source.element.name,
            "block": launch_block(source),
            "stored": source.scaling.stored.name,
            "tensor_scale": copy.tensor_scale,
            "config": fields,
        }

    def _launcher(self, copy: Copy, config: TileConfig) -> Callable[[], None]:
        fields = config.to_dict()
        interpreted = torch.device(self.device).type == "cpu"
        if interpreted:
            fields |= {"software_cast": True}
        arguments = self._arguments(copy, fields)

        def run() -> None:
            with exact_interpreter(tile_scales) if interpreted else nullcontext():
                dequantize_tiles.launch(**arguments)

        return run

    def check(self, config: TileConfig) -> Accuracy:
        poison(self.operands.out)
        self._launcher(self.operands, config)()
        reason = first_difference("out", self.operands.out, self._reference)
        return Accuracy(
            ok=not reason,
            max_error_over_bound=float("inf") if reason else 0.0,
            relative_rms=float("inf") if reason else 0.0,
            reason=reason,
        )

    def compile(self, config: TileConfig) -> None:
        dequantize_tiles.precompile(**self._arguments(self._blank(), config.to_dict()))

    @property
    def set_bytes(self) -> int:
        return self.problem.min_bytes
