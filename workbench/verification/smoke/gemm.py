"""``gemm`` and ``gemm_cuda.gemm`` of a package, called once for each kernel, recipe and output."""

import importlib
from types import ModuleType
from typing import Any

from . import ones, unit_scales

__all__ = ["smoke"]

TRITON = "triton_gemm"
#: Families of products in CUDA C++; nothing of the workbench may be imported yet.
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
ROWS, COLS = 4, 128


def smoke(package: ModuleType, device: str) -> int:
    """Call the products; returns how many calls."""
    if "gemm" not in package.__all__:
        return 0
    lookup = importlib.import_module(f"{package.__name__}._lookup")
    asked = [(formats, layout, (COLS, COLS)) for formats, layout in lookup.layouts(TRITON).items()]
    # The block kernel also serves other functions, of other formats.
    on_hopper = {
        formats: layout
        for name in HOPPER
        for formats, layout in lookup.layouts(name).items()
        if formats in lookup.layouts(TRITON)
    }
    if device == "cuda":
        asked += [
            (file.formats, file.layout, file.extents)
            for file in lookup.FILES
            if file.kernel in HOPPER and file.extents is not None and file.formats in on_hopper
        ]
    for formats, layout, (n, k) in asked:
        _product(package, formats, layout, n, k, device)
    return len(asked) + (_on_cupy(package, on_hopper) if device == "cuda" else 0)


def _product(
    package: ModuleType, formats: tuple[str, str], layout: Any, n: int, k: int, device: str
) -> None:
    import torch

    recipe, out = formats
    a = ones(torch, ROWS, k, layout["a_element"], device)
    b = ones(torch, n, k, layout["b_element"], device)
    package.gemm(
        a,
        b,
        unit_scales(torch, layout["a_block"], ROWS, k, device),
        unit_scales(torch, layout["b_block"], n, k, device),
        recipe=recipe,
        out_dtype=ones(torch, 1, 1, out, "cpu").dtype,
    )


def _on_cupy(package: ModuleType, layouts: dict[tuple[str, str], Any]) -> int:
    """Call the product of CuPy arrays on zeros; returns how many calls."""
    if not layouts:
        return 0
    cupy = importlib.import_module("cupy")
    gemm = importlib.import_module(f"{package.__name__}.gemm_cuda").gemm
    dtypes = {"bf16": "uint16", "fp16": "float16", "int8": "int8"}
    rows, cols = 8, 256
    for (recipe, out), layout in layouts.items():
        a = cupy.zeros((rows, cols), dtypes.get(layout["a_element"], "uint8"))
        b = cupy.zeros((cols, cols), a.dtype)
        scales = []
        for operand, block in ((a, layout["a_block"]), (b, layout["b_block"])):
            grid = block and [
                -(-extent // under) if under else 1
                for extent, under in zip(operand.shape, block, strict=True)
            ]
            # 1xB scales have their rows contiguous.
            order = "F" if block and block[0] == 1 else "C"
            scales.append(grid and cupy.ones(grid, "float32", order=order))
        gemm(a, b, *scales, recipe=recipe, out_format=out)
    return len(layouts)
