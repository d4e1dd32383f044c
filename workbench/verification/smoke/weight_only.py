"""``linear_weight_only`` of a package, called once for each recipe and output."""

import importlib
from types import ModuleType

from . import ones

__all__ = ["smoke"]

ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Pack weights of zeros and multiply by them; returns how many products."""
    if "linear_weight_only" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_weight_only")
    for (recipe, out), layout in layouts.items():
        rows, group = layout["block"]
        codes = torch.zeros(COLS, COLS * layout["bits"] // 8, dtype=torch.uint8, device=device)
        grid = (-(-COLS // rows) if rows else 1, -(-COLS // group) if group else 1)
        stored = layout["stored"] if group else "fp32"
        scales = torch.ones(grid, device=device)
        if stored == "e8m0fnu":
            scales = scales.to(torch.uint8)
        else:
            scales = scales.to(ones(torch, 1, 1, stored, "cpu").dtype)
        zeros = None
        if layout["element"].startswith("u"):
            zeros = torch.zeros(grid, dtype=torch.uint8, device=device)
        weight = package.pack_weight(codes, scales, recipe=recipe, zero_points=zeros)
        x = ones(torch, ROWS, COLS, layout["activation"], device)
        package.linear_weight_only(x, weight, out_dtype=ones(torch, 1, 1, out, "cpu").dtype)
    return len(layouts)
