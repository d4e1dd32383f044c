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
        #: One tuple, which threads replace whole: the weight's state, and what it was rounded to.
        self._held: tuple[tuple[int, int, torch.dtype], torch.Tensor] | None = None

    def rounded(self, weight: torch.Tensor, *, turned: bool = False) -> torch.Tensor:
        """What the codes of a weight stand for, in its shape and dtype.

        Args:
            weight: (N, ...), or (K, N) where ``turned``.
        """
        state = (weight._version, weight.data_ptr(), weight.dtype)
        held = self._held
        # What is no parameter is made anew on every call, maybe where another one lay before.
        if held is not None and held[0] == state and isinstance(weight, nn.Parameter):
            return held[1]
        source = weight.detach().t() if turned else weight.detach()
        matrix = source.reshape(source.shape[0], -1).float()
        values = quantize_tensor(matrix, self.format).dequantize().view(source.shape)
        values = (values.t() if turned else values).to(weight.dtype)
        self._held = state, values
        return values
