"""``gemm_outliers`` and ``pack_outliers`` of a package, called once for each recipe and output."""

import importlib
from types import ModuleType

from . import ones, unit_scales

__all__ = ["smoke"]

ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Pack ones and multiply by them; returns how many products."""
    if "gemm_outliers" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_outlier_gemm")
    for (recipe, out), layout in layouts.items():
        x = torch.ones(ROWS, COLS, device=device)
        weight = torch.ones(COLS, COLS, device=device) if layout["outliers"] == "columns" else None
        packed = package.pack_outliers(x, weight, recipe=recipe)
        b = ones(torch, COLS, COLS, layout["b_element"], device)
        b_scale = unit_scales(torch, layout["b_block"], COLS, COLS, device)
        dtype = ones(torch, 1, 1, out, "cpu").dtype
        package.gemm_outliers(packed, b, b_scale, recipe=recipe, out_dtype=dtype)
    return len(layouts)
