"""``quantize_packed`` and ``gemm_quantized`` of a package, called once for each format."""

import importlib
from types import ModuleType

from . import ones, unit_scales

__all__ = ["smoke"]

SIDE = 64


def smoke(package: ModuleType, device: str) -> int:
    """Quantise ones, and products of ones; returns how many calls."""
    lookup = importlib.import_module(f"{package.__name__}._lookup")
    calls = 0
    if "quantize_packed" in package.__all__:
        import torch

        for (target, source, *options), layout in lookup.layouts("triton_quantize_tiles").items():
            x = ones(torch, SIDE, SIDE, source, device)
            seed = 1 if layout["stochastic"] else None
            package.quantize_packed(x, target, seed=seed, **dict.fromkeys(options, True))
            calls += 1
    if "gemm_quantized" in package.__all__:
        import torch

        for (recipe, target), layout in lookup.layouts("hopper_block_gemm").items():
            if "." not in target:
                continue
            a = ones(torch, SIDE, SIDE, layout["a_element"], device)
            scale = unit_scales(torch, layout["a_block"], SIDE, SIDE, device)
            seed = 1 if layout["stochastic"] else None
            package.gemm_quantized(a, a, scale, scale, recipe=recipe, format=target, seed=seed)
            calls += 1
    return calls
