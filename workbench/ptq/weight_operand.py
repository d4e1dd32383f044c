"""A weight that a function multiplies by, outside of any replaced layer."""

import torch
from torch import nn

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor

__all__ = ["WeightOperand"]


class WeightOperand:
    """Rounds a weight, and again only after it changed.

    It is quantised to nearest; the model's own parameter stays as it is.
    """

    def __init__(self, fmt: TensorFormat) -> None:
        self.format = fmt
        self._state: tuple[int, int, torch.dtype] | None = None
        self._values: torch.Tensor | None = None

    def rounded(self, weight: torch.Tensor, *, turned: bool = False) -> torch.Tensor:
        """What the codes of a weight stand for, in its shape and dtype.

        Args:
            weight: (N, ...), or (K, N) where ``turned``.
        """
        state = (weight._version, weight.data_ptr(), weight.dtype)
        # What is no parameter is made anew on every call, maybe where another one lay before.
        if self._values is None or self._state != state or not isinstance(weight, nn.Parameter):
            source = weight.detach().t() if turned else weight.detach()
            matrix = source.reshape(source.shape[0], -1).float()
            values = quantize_tensor(matrix, self.format).dequantize().view(source.shape)
            self._values = (values.t() if turned else values).to(weight.dtype)
            self._state = state
        return self._values
