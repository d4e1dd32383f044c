"""A quantisation problem opened on a device for the tile kernel, and its reference."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from tiles.formats import TensorFormat
from tiles.formats.packing import pack_codes, swizzle_scales
from tiles.formats.rounding import Rounding
from tiles.formats.torch_codec import QuantizedTensor, empty_scales, quantize_tensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.copied_workload import CopiedWorkload
from tiles.kernels.exact_difference import first_difference, poison
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import quantize_tiles, tile_scales
from tiles.problems import Quantize

__all__ = [
    "Copy",
    "Outputs",
    "QuantizeTilesWorkload",
    "blank_scales",
    "launch_keywords",
    "packed_codes",
    "quantized_outputs",
    "stored_scales",
]

SCALE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the kernel writes: packed bytes of codes, scales in their stored format."""

    codes: torch.Tensor
    scales: torch.Tensor
    codes_t: torch.Tensor | None
    scales_t: torch.Tensor | None
    tensor_scale: torch.Tensor | None

    def named(self) -> dict[str, torch.Tensor]:
        """The tensors that are there, by name."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One copy of the input and of what the kernel writes."""

    x: torch.Tensor
    outputs: Outputs


def blank_scales(
    rows: int, cols: int, fmt: TensorFormat, device: str, *, swizzled: bool = False
) -> torch.Tensor:
    """Scales of a matrix, uninitialised: bytes row by row or swizzled, others as conventional."""
    scaling = fmt.scaling
    assert scaling is not None
    grid = scaling.grid(rows, cols)
    if swizzled:
        size = -(-grid[0] // 128) * -(-grid[1] // 4) * 512
        return torch.empty(size, dtype=torch.uint8, device=device)
    if scaling.stored.bits == 8:
        return torch.empty(grid, dtype=torch.uint8, device=device)
    layout = empty_scales(rows, cols, scaling, device)
    dtype = SCALE_DTYPES[scaling.stored.name]
    return torch.empty_strided(layout.shape, layout.stride(), dtype=dtype, device=device)


def launch_keywords(problem: Quantize, seed: int) -> dict[str, Any]:
    """Keywords of ``quantize_tiles.launch`` beside tensors and configuration."""
    target = problem.target
    assert target.scaling is not None
    return {
        "element": target.element.name,
        "block": launch_block(target),
        "stored": target.scaling.stored.name,
        "rule": target.scaling.rule.value,
        "seed": seed if target.rounding is Rounding.STOCHASTIC else None,
        "swizzled": problem.swizzled,
    }


def packed_codes(codes: torch.Tensor, fmt: TensorFormat) -> torch.Tensor:
    """Bytes of (rows, cols) bit patterns, packed row by row."""
    bits = codes.contiguous().view(torch.uint8)
    return bits if fmt.element.bits == 8 else pack_codes(bits, fmt.element.bits)


def stored_scales(quantized: QuantizedTensor) -> torch.Tensor:
    """Scales in the dtype that they are stored in: bytes, or the layout of the codec."""
    assert quantized.scales is not None
    assert quantized.format.scaling is not None
    stored = quantized.format.scaling.stored
    return (
        quantized.scale_bits if stored.bits == 8 else quantized.scales.to(SCALE_DTYPES[stored.name])
    )


def quantized_outputs(x: torch.Tensor, problem: Quantize, seed: int) -> Outputs:
    """What the kernel has to write, by the workbench's codec, bit for bit.

    Scales lie as :func:`tiles.formats.torch_codec.empty_scales` says, or swizzled.
    """
    target = problem.target
    scaling = target.scaling
    assert scaling is not None
    one = quantize_tensor(x, target, seed=seed)
    assert one.scales is not None

    scales = stored_scales(one)
    codes_t = scales_t = None
    if problem.transposed and problem.shared_scales:
        codes_t = packed_codes(one.bits.t(), target)
        scales_t = None if scaling.rows is None else scales.t().contiguous()
    elif problem.transposed:
        two = quantize_tensor(x.t(), target, seed=seed)
        codes_t, scales_t = packed_codes(two.bits, target), stored_scales(two)
    if problem.swizzled:
        scales = swizzle_scales(scales)
        scales_t = None if scales_t is None else swizzle_scales(scales_t)
    return Outputs(
        codes=packed_codes(one.bits, target),
        scales=scales,
        codes_t=codes_t,
        scales_t=scales_t,
        tensor_scale=None if one.tensor_scale is None else one.tensor_scale.reshape(1),
    )


class QuantizeTilesWorkload(CopiedWorkload[Copy]):
    """Random normal values in the source format, kept on ``device``."""

    problem: Quantize

    def _blank(self) -> Copy:
        """Tensors of the right shapes, dtypes and strides; they hold anything."""
        rows, cols = self.problem.shape
        target = self.problem.target
        assert target.scaling is not None
        bits = target.element.bits

        def codes(rows: int, cols: int) -> torch.Tensor:
            return torch.empty(rows, -(-cols * bits // 8), dtype=torch.uint8, device=self.device)

        def empty(rows: int, cols: int) -> torch.Tensor:
            return blank_scales(rows, cols, target, self.device, swizzled=self.problem.swizzled)

        transposed = self.problem.transposed
        one_scale = target.scaling.rows is None
        return Copy(
            x=torch.empty(rows, cols, dtype=CODE_DTYPES[self.problem.source], device=self.device),
            outputs=Outputs(
                codes=codes(rows, cols),
                scales=empty(rows, cols),
                codes_t=codes(cols, rows) if transposed else None,
                scales_t=empty(cols, rows) if transposed and not one_scale else None,
                tensor_scale=torch.empty(1, dtype=torch.float32, device=self.device)
                if target.scaling.two_level
                else None,
            ),
        )

    def _copy(self) -> Copy:
        blank = self._blank()
        blank.x.copy_(self._drawn)
        return blank

    @cached_property
    def _drawn(self) -> torch.Tensor:
        generator = torch.Generator(device=self.device).manual_seed(self._seed)
        x = torch.randn(self.problem.shape, generator=generator, device=self.device)
        return x.to(CODE_DTYPES[self.problem.source])

    @cached_property
    def _reference(self) -> Outputs:
        return quantized_outputs(self._drawn, self.problem, self._seed)

    def _arguments(self, copy: Copy, fields: Mapping[str, int | bool]) -> dict[str, Any]:
        keywords = launch_keywords(self.problem, self._seed)
        return {"x": copy.x, **copy.outputs.named(), **keywords, "config": fields}

    def _launcher(self, copy: Copy, config: TileConfig) -> Callable[[], None]:
        fields = config.to_dict()
        interpreted = torch.device(self.device).type == "cpu"
        if interpreted:
            # Interpreted casts to 8-bit floats are not exact, and wrap on overflow.
            fields |= {"software_cast": True}
        arguments = self._arguments(copy, fields)

        def run() -> None:
            with exact_interpreter(tile_scales) if interpreted else nullcontext():
                quantize_tiles.launch(**arguments)

        return run

    def check(self, config: TileConfig) -> Accuracy:
        written = self.operands.outputs.named()
        for tensor in written.values():
            poison(tensor)
        self._launcher(self.operands, config)()
        wanted = self._reference.named()
        reasons = [first_difference(name, written[name], wanted[name]) for name in wanted]
        reason = next(filter(None, reasons), "")
        return Accuracy(
            ok=not reason,
            max_error_over_bound=float("inf") if reason else 0.0,
            relative_rms=0.0 if not reason else float("inf"),
            reason=reason,
        )

    def compile(self, config: TileConfig) -> None:
        quantize_tiles.precompile(**self._arguments(self._blank(), config.to_dict()))

    @property
    def set_bytes(self) -> int:
        return self.problem.min_bytes
