"""Codes of matrices on a CUDA device and the numbers that they stand for, by kernels."""

from dataclasses import replace
from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import dequantize_tiles, quantize_tiles, rounded_tiles, turned_tiles
from tiles.kernels.triton.dequantize_tiles_arguments import request as dequantize_request
from tiles.kernels.triton.quantize_tiles_arguments import request as quantize_request
from tiles.problems import Dequantize, Quantize
from workbench.nn.assembly import Assembly
from workbench.nn.choices import Choice
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.cuda_assembly import PlacedCodes, stored_tensors
from workbench.nn.cuda_launcher import CudaLauncher
from workbench.nn.kernel_formats import (
    PLAIN,
    ROW_STEP,
    in_blocks,
    powers,
    seed_of,
    square_side,
    stored_scales,
    turns,
)
from workbench.nn.prepared import TritonLaunch

__all__ = ["CudaQuantizer"]


class CudaQuantizer(CudaLauncher):
    """Quantises and dequantises by kernels; what none serves is in ``unserved``."""

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if share or stored_scales(out) is None:
            return self._by_twin(
                f"quantize {out}, fallback {share:g}", "codes and scales of other kinds"
            ).quantize(x, out, seed=seed, share=share)
        if not x.is_contiguous() and x.t().is_contiguous() and turns(out):
            return self._turned_codes(x, out)
        found = self._quantized(x.contiguous(), out, seed, transposed=False)
        return super().quantize(x, out, seed=seed) if found is None else found

    def _turned_codes(self, x: torch.Tensor, out: TensorFormat) -> Codes:
        """Codes of a transposed view, read as its matrix lies."""
        assert out.scaling is not None
        assert out.scaling.rows is not None
        rows, cols = x.shape
        straight, made = x.t(), self._bare(rows, cols, out)
        assert made.scales is not None
        tensors = {"x": straight, "codes": made.codes.view(torch.uint8), "scales": made.scales}
        key = self._key("turned", (straight,), out)
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors)
                return Codes(main=made)
            # 32 elements a thread.
            side, tile = out.scaling.rows, max(out.scaling.rows, 64)
            config = {"block_rows": tile, "block_cols": tile, "num_warps": tile * tile // 1024}
            config["software_cast"] = False
            turned_tiles.launch(*tensors.values(), block=side, config=config)
            if key is not None:
                call = turned_tiles._call(*tensors.values(), block=side, config=config)
                self._prepared[key] = TritonLaunch([call], tensors)
        return Codes(main=made)

    def quantize_both(self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0) -> Codes:
        # Rows of the transposed codes begin at multiples of 16 bytes: the products' loads need it.
        fits = stored_scales(out) == "fp32" and x.shape[0] % ROW_STEP == 0
        if fits and square_side(out) and not self._tuned_both(x, out):
            # A part of all: by the kernel of parts, which is the faster one.
            rows, cols = x.shape
            whole = PlacedCodes(
                self, self._bare(rows, cols, out), self._bare(cols, rows, out), seed
            )
            whole.put(x, 0, 0)
            return whole.codes()
        found = self._quantized(x.contiguous(), out, seed, transposed=True) if fits else None
        return self.quantize(x, out, seed=seed) if found is None else found

    def quantize_rounded(
        self, x: torch.Tensor, out: TensorFormat, dtype: torch.dtype
    ) -> tuple[Codes, torch.Tensor]:
        side = square_side(out)
        if not side or out.rounding is not Rounding.NEAREST_EVEN or dtype not in PLAIN:
            return super().quantize_rounded(x, out, dtype)
        rows, cols = x.shape
        x, made = x.contiguous(), self._bare(rows, cols, out)
        key = self._key("rounded", (x,), out, dtype)
        numbers = torch.empty_like(x, dtype=dtype)
        tensors = {"x": x} | stored_tensors(made) | {"out": numbers}
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors)
                return Codes(main=made), numbers
            rounded_tiles.launch(*tensors.values(), block=side)
            if key is not None:
                call = rounded_tiles._call(*tensors.values(), block=side)
                self._prepared[key] = TritonLaunch([call], tensors)
        return Codes(main=made), numbers

    def _tuned_both(self, x: torch.Tensor, out: TensorFormat) -> bool:
        """Whether a sweep found a configuration for codes both ways."""
        rows, cols = x.shape
        source = PLAIN[x.dtype]
        problem = Quantize(rows=rows, cols=cols, target=out, source=source, transposed=True)
        return bool(self.choices.tuned) and str(problem) in self.choices.tuned

    def assembly(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        out: TensorFormat,
        *,
        parts: tuple[int, int],
        both: bool,
        seed: int = 0,
    ) -> Assembly:
        side = square_side(out)
        # One that begins nowhere but at 0 may end within a block, at the matrix's own end.
        inside = [
            part % side if part < extent and side else 0
            for part, extent in zip(parts, shape, strict=True)
        ]
        if not side or any(inside) or dtype not in PLAIN:
            return super().assembly(shape, dtype, device, out, parts=parts, both=both, seed=seed)
        rows, cols = shape
        # Rows of the transposed codes begin at multiples of 16 bytes, as in `quantize_both`.
        turned = self._bare(cols, rows, out) if both and rows % ROW_STEP == 0 else None
        return PlacedCodes(self, self._bare(rows, cols, out), turned, seed)

    def quantize_directions(self, x: torch.Tensor, out: TensorFormat) -> BothDirections:
        found = None
        if stored_scales(out) is not None and out.rounding is not Rounding.STOCHASTIC:
            found = self._quantized(x.contiguous(), out, 0, transposed=True)
        if found is None or found.turned is None:
            return super().quantize_directions(x, out)
        return BothDirections(forward=Codes(main=found.main), turned=Codes(main=found.turned))

    def _quantized(
        self, x: torch.Tensor, out: TensorFormat, seed: int, *, transposed: bool
    ) -> Codes | None:
        """Codes by a kernel, in one pass with those of the transpose if asked."""
        rows, cols = x.shape
        key = self._key("quantize", (x,), out, transposed) if in_blocks(out) else None
        if known := self._prepared.get(key) if key is not None else None:
            made = self._bare(rows, cols, out)
            turned = self._bare(cols, rows, out) if transposed else None
            tensors = {"x": x} | stored_tensors(made) | stored_tensors(turned, "_t")
            with self._current():
                known(tensors, seed_of(out, seed))
            return Codes(main=made, turned=turned)
        source = PLAIN[x.dtype]
        problem = Quantize(rows=rows, cols=cols, target=out, source=source, transposed=transposed)
        # Where no kernel writes both, two launches do: nothing is unserved by that.
        choice = self._choice(problem) if not transposed else self.choices.of(problem)
        if not isinstance(choice, Choice):
            return None
        made, stored = self._empty(rows, cols, out), stored_scales(out)
        assert made.scales is not None  # of a format with scales
        assert stored is not None  # those who call have asked
        scales = made.scales
        if stored != "fp32":
            scales = torch.empty(scales.shape, dtype=torch.uint8, device=self.device)
        turned = None
        rest: dict[str, Any] = {}
        if transposed:
            turned = self._empty(cols, rows, out)
            one = launch_block(out) == (0, 0)  # a scale that serves both
            turned = replace(turned, scales=made.scales) if one else turned
            assert turned.scales is not None  # as its codes have them
            other = turned.scales
            if stored != "fp32":
                other = torch.empty(other.shape, dtype=torch.uint8, device=self.device)
            rest = {"codes_t": turned.codes.view(torch.uint8), "scales_t": None if one else other}
        operands = (x, made.codes.view(torch.uint8), scales)
        rest |= {
            "element": out.element.name,
            "block": launch_block(out),
            "stored": stored,
            "rule": out.scaling.rule.value if out.scaling else "absmax",
            "seed": seed_of(out, seed),
            "config": choice.config.to_dict(),
        }
        with self._current():
            quantize_tiles.launch(*operands, **rest)
            if key is not None:
                calls = quantize_tiles._calls(quantize_request(*operands, **rest))
                tensors = {"x": x} | stored_tensors(made) | stored_tensors(turned, "_t")
                self._prepared[key] = TritonLaunch(calls, tensors)
        if stored != "fp32":
            made.scales.copy_(powers(scales))
            if turned is not None and turned.scales is not None:
                turned.scales.copy_(powers(rest["scales_t"]))
        return Codes(main=made, turned=turned)

    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        stored = stored_scales(x.format)
        if x.fallback is not None or dtype not in PLAIN or stored is None:
            more = "" if x.fallback is None else ", fallback"
            twin = self._by_twin(f"dequantize {x.format}{more}", "codes and scales of other kinds")
            return twin.dequantize(x, dtype)
        rows, cols = x.shape
        codes, scales = x.main.codes.view(torch.uint8), x.main.scales
        key = None
        if in_blocks(x.format) and codes.is_contiguous():
            key = self._key("dequantize", (codes, scales), x.format, dtype)
        if known := self._prepared.get(key) if key is not None else None:
            assert scales is not None
            out = torch.empty(rows, cols, dtype=dtype, device=self.device)
            with self._current():
                known({"codes": codes, "scales": scales, "out": out})
            return out
        source = replace(x.format, rounding=Rounding.NEAREST_EVEN)
        choice = self._choice(Dequantize(rows=rows, cols=cols, source=source, out=PLAIN[dtype]))
        if choice is None:
            return super().dequantize(x, dtype)
        assert scales is not None  # of a format with scales
        out = torch.empty(rows, cols, dtype=dtype, device=self.device)
        operands = (codes, scales if stored == "fp32" else x.main.scale_bits, out)
        rest: dict[str, Any] = {
            "element": source.element.name,
            "block": launch_block(source),
            "stored": stored,
            "config": choice.config.to_dict(),
        }
        with self._current():
            dequantize_tiles.launch(*operands, **rest)
            if key is not None:
                call = dequantize_tiles._call(dequantize_request(*operands, **rest))
                named = {"codes": codes, "scales": scales, "out": out}
                self._prepared[key] = TritonLaunch([call], named)
        return out
