"""``dataflow`` of a package, called once for each operator and format on a GPU."""

import importlib
from types import ModuleType

from . import ones, unit_scales

__all__ = ["smoke"]

ROWS, COLS = 32, 128


def smoke(package: ModuleType, device: str) -> int:
    """Call the operators on ones; returns how many calls."""
    if "dataflow" not in package.__all__ or device != "cuda":
        return 0
    import torch

    module = importlib.import_module(f"{package.__name__}._dataflow")
    operands = importlib.import_module(f"{package.__name__}._dataflow_operands")
    for (op, target), (_, layout) in module._SERVED.items():
        x = ones(torch, ROWS, COLS, layout["element"], device)
        scales = unit_scales(torch, layout["block"], ROWS, COLS, device)
        made = {"other": x, "other_scales": scales}
        made |= {name: torch.ones(ROWS, device=device) for name in ("mean", "variance")}
        made |= {name: torch.ones(COLS, device=device) for name in ("gamma", "beta")}
        read = {name: made[name] for name in operands.reads(op)}
        seed = 1 if layout["stochastic"] else None
        package.dataflow(op, x, scales, format=target, seed=seed, **read)
    return len(module._SERVED)
