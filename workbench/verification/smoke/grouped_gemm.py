"""``grouped_gemm`` of a package, called once for each recipe, order of rows and output."""

import importlib
from types import ModuleType
from typing import Any

from . import ones, unit_scales

__all__ = ["smoke"]

EXPERTS, ROWS, COLS = 2, 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Multiply ones; returns how many products."""
    if "grouped_gemm" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_grouped_gemm")
    for (recipe, order, out), layout in layouts.items():
        a = ones(torch, ROWS, COLS, layout["a_element"], device)
        b = ones(torch, EXPERTS * COLS, COLS, layout["b_element"], device)
        a_scale = unit_scales(torch, layout["a_block"], ROWS, COLS, device)
        b_scale = unit_scales(torch, layout["b_block"], COLS, COLS, device)
        if order == "masked":
            a = a.view(EXPERTS, -1, COLS)
            if a_scale is not None:
                rows = a_scale.shape[0] // EXPERTS if a_scale.shape[0] > 1 else 1
                a_scale = a_scale.repeat(EXPERTS, 1)[: EXPERTS * rows].view(EXPERTS, rows, -1)
        if b_scale is not None:
            b_scale = b_scale.expand(EXPERTS, -1, -1).contiguous()
        package.grouped_gemm(
            a,
            b.view(EXPERTS, COLS, COLS),
            a_scale,
            b_scale,
            recipe=recipe,
            out_dtype=ones(torch, 1, 1, out, "cpu").dtype,
            **_routing(torch, order, device),
        )
    return len(layouts)


def _routing(torch: Any, order: str, device: str) -> dict[str, Any]:
    """Half the rows for each expert."""
    half = ROWS // EXPERTS
    offsets = torch.arange(EXPERTS + 1, device=device) * half
    counts = torch.full((EXPERTS,), half, dtype=torch.int32, device=device)
    ids = torch.arange(ROWS, dtype=torch.int32, device=device)
    return {
        "contiguous": {"offsets": offsets},
        "padded": {"offsets": offsets, "counts": counts},
        "masked": {"counts": counts},
        "gathered": {"offsets": offsets, "ids": ids},
    }[order]
