"""How far single activations stand out: what one scale for a tensor has to cover."""

import torch
from torch import nn

from bench.accuracy.task import device_of
from workbench.ptq.task import Task

__all__ = ["OUTLIER_KINDS", "outliers"]

#: Layers whose inputs a quantiser scales.
OUTLIER_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@torch.no_grad()
def outliers(task: Task) -> dict[str, float]:
    """The largest magnitude over the root mean square of each product's input, by layer.

    Of 256 levels that INT8 spreads up to the largest magnitude, a number of ordinary size gets
    127 over this ratio; a float keeps its relative error until it is subnormal.

    Args:
        task: its fp32 model runs on its calibration data.
    """
    model, largest, squares, counts = task.model(), {}, {}, {}  # type: ignore[var-annotated]

    def watch(name: str, x: torch.Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(x.abs().amax()))
        squares[name] = squares.get(name, 0.0) + float(x.double().square().sum())
        counts[name] = counts.get(name, 0) + x.numel()

    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: watch(name, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, OUTLIER_KINDS)
    ]
    device = device_of(model)
    for batch in task.calibration():
        model(*(one.to(device) for one in batch))
    for hook in hooks:
        hook.remove()
    return {
        name: largest[name] / (squares[name] / counts[name]) ** 0.5
        for name in largest
        if squares[name]
    }
