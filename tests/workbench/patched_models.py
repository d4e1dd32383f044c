"""Packages that patch models, the reference in the place of their kernels, small models."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from emit_runs import run_of, study
from torch import Tensor, nn

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import recipe
from workbench.emission import EmittedPackage, emit

HIDDEN, INNER = 128, 192
SCALED = ("deepseek-fp8", "int8-row", "int8-b128", "e4m3-row")
WEIGHT_ONLY = ("w4a16-g128",)
#: Times that are measured: e4m3-row is the fastest.
TIMES = {"deepseek-fp8": 22.0, "int8-row": 21.0, "int8-b128": 25.0, "e4m3-row": 20.0}


def emitted(folder: Path, name: str) -> EmittedPackage:
    """A package tuned for layers of 128 -> 192 and 192 -> 128, for activations in bf16."""
    shapes = ((64, INNER, HIDDEN), (64, HIDDEN, INNER))
    products = [
        study(f"gemm:{m}x{n}x{k}:{one}:bf16", simulated=False, time_us=TIMES[one])
        for one in SCALED
        for m, n, k in shapes
    ]
    packed = [
        study(f"gemm:{m}x{n}x{k}:{one}:bf16", family="triton_weight_only")
        for one in WEIGHT_ONLY
        for m, n, k in shapes
    ]
    formats = dict.fromkeys(str(recipe(one).activation) for one in SCALED)
    rounding = [
        study(f"quantize:64x{k}:{one}:bf16", family="triton_quantize")
        for one in formats
        for k in (HIDDEN, INNER)
    ]
    return emit(run_of(*products, *packed, *rounding), folder, name=name)


def dequantized(codes: Tensor, scales: Tensor, block: Any) -> Tensor:
    """(rows, cols) fp64 of codes and scales, by repetition of each scale over its block."""
    rows, cols = codes.shape
    spread = scales.double().repeat_interleave(block[0] or rows, 0)[:rows]
    return codes.double() * spread.repeat_interleave(block[1] or cols, 1)[:, :cols]


def reference_in_place(name: str) -> None:
    """The workbench's codec and a product in fp64 instead of the operators, behind their checks."""
    gemm, quantize = (import_module(f"{name}.{part}") for part in ("_gemm", "_quantize"))
    quantize.__dict__["_make"], gemm.__dict__["_make"] = _references(gemm)


def reference_as_kernels(name: str) -> None:
    """The same as what the operators themselves run on the host; loads torch's compiler."""
    gemm, quantize = (import_module(f"{name}.{part}") for part in ("_gemm", "_quantize"))
    quantized, product = _references(gemm)
    quantize._make.register_kernel("cpu")(quantized)
    gemm._make.register_kernel("cpu")(product)


def _references(gemm: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def quantized(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
        if not x.numel():  # which the codec refuses
            return tuple(import_module(gemm.__package__ + "._quantize")._empty(x, format))
        found = quantize_tensor(x, TensorFormat.parse(format))
        assert found.scales is not None
        return found.codes, found.scales

    def product(
        a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, recipe: str, out_dtype: torch.dtype
    ) -> Tensor:
        layout = gemm._LAYOUTS[recipe, "bf16"]
        left = dequantized(a, a_scale, layout["a_block"])
        return (left @ dequantized(b, b_scale, layout["b_block"]).T).to(out_dtype)

    return quantized, product


class Mlp(nn.Module):
    """Two layers of each kind of name, a head, and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(HIDDEN, INNER)
        self.down_proj = nn.Linear(INNER, HIDDEN, bias=False)
        self.norm = nn.LayerNorm(HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, 48)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.down_proj(torch.relu(self.up_proj(self.norm(x))))
        found: Tensor = self.lm_head(x + hidden)
        return found


def mlp(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Mlp:
    torch.manual_seed(seed)
    return Mlp().to(dtype).eval()
