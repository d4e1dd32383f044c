"""``dequantize`` of a package, called once for each format and output."""

import importlib
from types import ModuleType

from . import ones

__all__ = ["smoke"]

ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Dequantise codes of zeros; returns how many calls."""
    if "dequantize" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_dequantize")
    for (source, out), layout in layouts.items():
        codes = torch.zeros(ROWS, COLS * layout["bits"] // 8, dtype=torch.uint8, device=device)
        rows, cols = layout["block"]
        grid = (-(-ROWS // rows) if rows else 1, -(-COLS // cols) if cols else 1)
        scales = torch.ones(grid, device=device)
        if layout["stored"] in ("e8m0fnu", "e4m3fn"):
            scales = scales.to(torch.uint8)
        else:
            scales = scales.to(ones(torch, 1, 1, layout["stored"], "cpu").dtype)
        outer = torch.ones(1, device=device) if layout["two_level"] else None
        dtype = ones(torch, 1, 1, out, "cpu").dtype
        package.dequantize(codes, scales, source, tensor_scale=outer, out_dtype=dtype)
    return len(layouts)
