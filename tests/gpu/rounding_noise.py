"""What a recipe's rounding costs a product, from the steps of its formats at the data at hand."""

import math

import torch

from tiles.formats import FloatElement, IntElement, TensorFormat
from tiles.recipes import Recipe

__all__ = ["product_noise", "rounding_noise"]


def rounding_noise(x: torch.Tensor, fmt: TensorFormat) -> float:
    """RMS error of rounding a matrix to nearest, as a share of its RMS.

    At most: an error is spread evenly over a step, if not over less around zero.  A step is as wide
    as the value's binade has it, times the scale of its block, ``amax / max``.  A tensor with
    outliers has wide steps, so the share is that of the data and no constant of the format.

    Args:
        x: (rows, cols), finite; on any device.
        fmt: of integers or floats, with fp32 scales; without scales nothing is rounded.
    """
    if fmt.scaling is None:
        return 0.0
    rows, cols = x.shape
    high, wide = fmt.scaling.rows or rows, fmt.scaling.cols or cols
    element = fmt.element
    assert isinstance(element, FloatElement | IntElement)
    noise = 0.0
    # Whole rows of blocks, few at a time: fp64 copies of all of a weight would fill a GPU.
    step = max(1, (1 << 24) // (cols * high)) * high
    for band in x.split(step):
        values = torch.nn.functional.pad(band.double(), (0, -cols % wide, 0, -len(band) % high))
        values = values.view(len(values) // high, high, -1, wide)
        scale = values.abs().amax(dim=(1, 3), keepdim=True) / element.max
        width = torch.ones_like(values)
        if isinstance(element, FloatElement):
            binade = (values / scale).abs().clamp(min=2.0**element.min_exponent).log2().floor()
            width = torch.exp2(binade - element.mantissa_bits)
        inside = torch.zeros_like(values).view(len(values) * high, -1)
        inside[: len(band), :cols] = 1
        noise += float(((width * scale) ** 2 * inside.view(values.shape)).nansum()) / 12
    return math.sqrt(noise) / float(x.double().norm())


def product_noise(a: torch.Tensor, b: torch.Tensor, recipe: Recipe) -> float:
    """Relative error that ``A · B^T`` is expected to have by the rounding of both operands.

    They err independently of each other and, where one of them is random, of where they point.
    """
    return math.hypot(rounding_noise(a, recipe.activation), rounding_noise(b, recipe.weight))
