"""Division as torch's CUDA kernels do it, on a CPU: by a Python number it is a product."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DIVISIONS = (torch.Tensor.div, torch.Tensor.div_, torch.Tensor.__truediv__, torch.div)


class CudaDivision(TorchFunctionMode):
    """Within it, ``x / number`` is ``x`` times the rounded reciprocal."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x, *rest = args or (None,)
        if func in _DIVISIONS and rest and isinstance(rest[0], int | float):
            return x * torch.tensor(rest[0], dtype=x.dtype).reciprocal()
        return func(*args, **(kwargs or {}))
