"""``gemm_packed`` of a package, called once for each recipe and output."""

import importlib
from types import ModuleType
from typing import Any

from . import ones

__all__ = ["smoke"]

ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Multiply codes of zeros; returns how many products."""
    if "gemm_packed" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_decoded_gemm")
    for (recipe, out), layout in layouts.items():
        a, a_scale, a_outer = _operand(torch, layout["a"], ROWS, device)
        b, b_scale, b_outer = _operand(torch, layout["b"], COLS, device)
        package.gemm_packed(
            a,
            b,
            a_scale,
            b_scale,
            recipe=recipe,
            columns=COLS,
            a_tensor_scale=a_outer,
            b_tensor_scale=b_outer,
            out_dtype=ones(torch, 1, 1, out, "cpu").dtype,
        )
    return len(layouts)


def _operand(torch: Any, facts: Any, rows: int, device: str) -> Any:
    """Codes of zeros, scales and the second level."""
    if facts["kind"] == "plain":
        return ones(torch, rows, COLS, facts["element"], device), None, None
    codes = torch.zeros(rows, COLS * facts["bits"] // 8, dtype=torch.uint8, device=device)
    if facts["block"] is None:
        return codes, None, None
    down, across = facts["block"]
    grid = (-(-rows // down) if down else 1, -(-COLS // across) if across else 1)
    scales = torch.ones(grid, device=device)
    if facts["stored"] != "fp32":
        scales = scales.to(torch.uint8)
    return codes, scales, torch.ones(1, device=device) if facts["two_level"] else None
