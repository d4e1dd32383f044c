"""Calls of every function of a package while imports of the workbench are refused.

The checking process loads this folder by its path, so nothing here imports the workbench: a module
for each function, with ``smoke(package, device)``, which calls it on small operands and returns how
many calls it made.  Whether answers are right is asked later.
"""

import contextlib
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["ones", "smoke_all", "unit_scales"]

_TORCH = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2"}
_TORCH |= {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def ones(torch: Any, rows: int, cols: int, element: str, device: str) -> Any:
    """A matrix of ones in the torch dtype of an element."""
    return torch.ones(rows, cols, device=device).to(getattr(torch, _TORCH.get(element, element)))


def unit_scales(torch: Any, block: Any, rows: int, cols: int, device: str) -> Any:
    """Scales of one for blocks of a matrix; ``None`` where there are none."""
    if block is None:
        return None
    grid = [
        -(-extent // under) if under else 1
        for extent, under in zip((rows, cols), block, strict=True)
    ]
    return torch.ones(grid, device=device)


@contextlib.contextmanager
def _fast_reductions() -> Iterator[None]:
    """Triton's interpreter reduces by a function of one's own element by element: a second each."""
    from triton.runtime import interpreter

    operations = interpreter.ReduceOps
    original = operations.apply_impl

    def reduce(self: Any, operand: Any) -> Any:
        combine = getattr(self.combine_fn, "fn", self.combine_fn)
        if getattr(combine, "__name__", "").lstrip("_") == "larger":
            return self.min_max(operand[0], val_reduce_op=np.max)
        return original(self, operand)

    operations.apply_impl = reduce
    try:
        yield
    finally:
        operations.apply_impl = original


def smoke_all(package: ModuleType, device: str) -> int:
    """Call every function of the package; returns how many calls.

    Args:
        package: an emitted package.
        device: "cuda" or "cpu".
    """
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    with _fast_reductions() if device == "cpu" else contextlib.nullcontext():
        return sum(module.smoke(package, device) for module in modules)
