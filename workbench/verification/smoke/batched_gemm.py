"""``batched_gemm`` of a package, called once for each recipe, second operand and output."""

import importlib
from types import ModuleType

from . import ones, unit_scales

__all__ = ["smoke"]

MATRICES, ROWS, COLS = 2, 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Multiply ones; returns how many products."""
    if "batched_gemm" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_batched_gemm")
    for (recipe, second, out), layout in layouts.items():
        a = ones(torch, MATRICES * ROWS, COLS, layout["a_element"], device)
        b = ones(torch, MATRICES * COLS, COLS, layout["b_element"], device)
        scales = []
        for name, rows in (("a", ROWS), ("b", COLS)):
            one = unit_scales(torch, layout[f"{name}_block"], rows, COLS, device)
            scales.append(None if one is None else one.expand(MATRICES, -1, -1).contiguous())
        package.batched_gemm(
            a.view(MATRICES, ROWS, COLS),
            b.view(MATRICES, COLS, COLS),
            *scales,
            recipe=recipe,
            second=second,
            out_dtype=ones(torch, 1, 1, out, "cpu").dtype,
        )
    return len(layouts)
