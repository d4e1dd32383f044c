"""Emulated products under MXFP6 and MXFP4 whose codes come from kernels, packed.

``workbench.nn`` leaves these codes to its torch twin, which takes sixty operations for a matrix; a
comparison has some hundred matrices a step.  Codes are the same bit for bit and exact in bf16, and
products are those of ``CudaBackend``: what codes stand for, in bf16, summed in fp32.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import dequantize_tiles, quantize_tiles
from tiles.kernels.triton.tile_packing import row_bytes
from tiles.problems import Dequantize, Quantize
from workbench.nn.choices import Choice
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.cuda_backend import CudaBackend
from workbench.nn.kernel_formats import PLAIN

__all__ = ["PackedBackend", "PackedCodes", "packs"]

_ELEMENTS = ("e3m2fn", "e2m3fn", "e2m1fn")
_STORED = "e8m0fnu"  #: scales, a byte each
_ROUNDINGS = (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC)


def packs(fmt: TensorFormat) -> bool:
    """Whether codes of a format are packed here."""
    scaling = fmt.scaling
    if scaling is None or scaling.two_level or fmt.asymmetric or fmt.rounding not in _ROUNDINGS:
        return False
    return fmt.element.name in _ELEMENTS and scaling.stored.name == _STORED


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCodes(Codes):
    """Codes whose rows are packed; scales are as they are stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return _extents(self)


def _extents(x: Codes) -> tuple[int, int]:
    """(rows, cols) of packed codes; a row fills its bytes."""
    rows, packed = x.main.codes.shape
    return rows, packed * 8 // x.format.element.bits


class PackedBackend(CudaBackend):
    """``CudaBackend``, with packed codes for the elements that it leaves to the twin."""

    name: ClassVar[str] = "cuda, packed codes"

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if share or not packs(out):
            return CudaBackend.quantize(self, x, out, seed=seed, share=share)
        return self._packed(x, out, seed, both=False).forward

    def quantize_directions(self, x: torch.Tensor, out: TensorFormat) -> BothDirections:
        if not packs(out):
            return CudaBackend.quantize_directions(self, x, out)
        return self._packed(x, out, 0, both=True)

    def _packed(
        self, x: torch.Tensor, out: TensorFormat, seed: int, *, both: bool
    ) -> BothDirections:
        rows, cols = x.shape
        for extent in (rows, cols) if both else (cols,):
            if extent * out.element.bits % 8:
                raise ValueError(
                    f"{extent} codes of {out.element} fill no whole bytes: take a multiple of 8"
                )
        choice = self.choices.of(
            Quantize(rows=rows, cols=cols, target=out, source=PLAIN[x.dtype], transposed=both)
        )
        if not isinstance(choice, Choice):
            raise ValueError(f"quantize {rows}x{cols} to {out}: {choice.reason}")
        forward = self._room(rows, cols, out)
        turned = self._room(cols, rows, out) if both else None
        assert out.scaling is not None
        with self._current():
            quantize_tiles.launch(
                x.contiguous(),
                forward.main.codes,
                _scales(forward),
                element=out.element.name,
                block=launch_block(out),
                stored=_STORED,
                rule=out.scaling.rule.value,
                seed=seed if out.rounding is Rounding.STOCHASTIC else None,
                codes_t=None if turned is None else turned.main.codes,
                scales_t=None if turned is None else _scales(turned),
                config=choice.config.to_dict(),
            )
        return BothDirections(forward=forward, turned=turned)

    def _room(self, rows: int, cols: int, out: TensorFormat) -> PackedCodes:
        assert out.scaling is not None
        made = QuantizedTensor(
            codes=torch.empty(
                rows, row_bytes(cols, out.element.bits), dtype=torch.uint8, device=self.device
            ),
            scales=torch.empty(out.scaling.grid(rows, cols), dtype=torch.uint8, device=self.device),
            format=out,
        )
        return PackedCodes(main=made)

    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        if x.fallback is not None or not packs(x.format):
            return CudaBackend.dequantize(self, x, dtype)
        rows, cols = _extents(x)
        source = replace(x.format, rounding=Rounding.NEAREST_EVEN)
        choice = self.choices.of(Dequantize(rows=rows, cols=cols, source=source, out=PLAIN[dtype]))
        if not isinstance(choice, Choice):
            raise ValueError(f"dequantize {rows}x{cols} of {source}: {choice.reason}")
        out = torch.empty(rows, cols, dtype=dtype, device=self.device)
        with self._current():
            dequantize_tiles.launch(
                x.main.codes,
                _scales(x),
                out,
                element=source.element.name,
                block=launch_block(source),
                stored=_STORED,
                config=choice.config.to_dict(),
            )
        return out

    def product(
        self,
        a: Codes,
        b: Codes,
        *,
        dtype: torch.dtype,
        bias: torch.Tensor | None = None,
        turn_a: bool = False,
        turn_b: bool = False,
    ) -> torch.Tensor:
        how = {"dtype": dtype, "bias": bias, "turn_a": turn_a, "turn_b": turn_b}
        if not (packs(a.format) or packs(b.format)):
            return CudaBackend.product(self, a, b, **how)  # type: ignore[arg-type]
        self.unserved[f"product of {a.format} by {b.format}"] = "emulated: operands are decoded"
        return self._emulated(a, b, **how)  # type: ignore[arg-type]


def _scales(x: Codes) -> torch.Tensor:
    assert x.main.scales is not None  # of a format with scales
    return x.main.scales
