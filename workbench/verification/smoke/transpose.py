"""``transpose`` of a package, called once for each element."""

import importlib
from types import ModuleType

from . import ones

__all__ = ["smoke"]


def smoke(package: ModuleType, device: str) -> int:
    """Transpose codes; returns how many calls."""
    if "transpose" not in package.__all__:
        return 0
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    layouts = lookup.layouts("triton_transpose")
    for (element,) in layouts:
        package.transpose(ones(torch, 4, 64, element, device))
    return len(layouts)
