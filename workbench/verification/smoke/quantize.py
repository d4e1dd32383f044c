"""``quantize`` and ``quantize_cuda.quantize`` of a package, called once for each format."""

import importlib
from types import ModuleType

from . import ones

__all__ = ["on_cupy", "smoke"]

ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Call the quantisations; returns how many calls."""
    lookup = importlib.import_module(f"{package.__name__}._lookup")
    calls = 0
    if "quantize" in package.__all__:
        import torch

        for target, source in lookup.layouts("triton_quantize"):
            package.quantize(ones(torch, ROWS, COLS, source, device), target)
            calls += 1
    formats = on_cupy(lookup)
    if device == "cuda" and formats:
        cupy = importlib.import_module("cupy")
        quantize = importlib.import_module(f"{package.__name__}.quantize_cuda").quantize
        dtypes = {"bf16": "uint16", "fp16": "float16", "fp32": "float32"}
        for target, source in formats:
            quantize(cupy.zeros((ROWS, COLS), dtypes[source]), target)
            calls += 1
    return calls


def on_cupy(lookup: ModuleType) -> list[tuple[str, str]]:
    """What ``quantize_cuda`` has: random bits and transposed copies are ``quantize_packed``'s."""
    layouts = lookup.layouts("cuda_quantize").items()
    return [formats for formats, layout in layouts if "stochastic" not in layout]
