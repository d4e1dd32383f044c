"""GPTQ: weights rounded column by column, each column's error made up for by those behind it.

Source: GPTQ, arXiv 2210.17323, algorithm 1, with its scales of groups found when a group begins.
"""

from dataclasses import replace

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales, quantize_tensor
from tiles.formats.torch_encode import code_dtype, decode, encode
from tiles.formats.torch_scales import divide

__all__ = ["DAMPING", "Hessian", "check_gptq", "gptq"]

#: Of the mean of the Hessian's diagonal, added to it.
DAMPING = 0.01
#: Columns whose errors reach those behind the block in one product.
BLOCK_COLUMNS = 128


class Hessian:
    """``2 X^T X / rows`` of a layer's inputs: the second derivative of its squared output error."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.sum = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.rows = 0

    def add(self, x: torch.Tensor) -> None:
        """Take (rows, K) inputs in."""
        wide = x.double()
        self.sum += wide.T @ wide
        self.rows += len(x)

    @property
    def matrix(self) -> torch.Tensor:
        """(K, K) float64, damped; features that were always zero have 1 on their diagonal."""
        found = 2 * self.sum / max(1, self.rows)
        diagonal = found.diagonal()
        diagonal += torch.where(diagonal == 0, 1.0, 0.0)
        diagonal += DAMPING * diagonal.mean()
        return found


def check_gptq(fmt: TensorFormat) -> None:
    """Refuse weight formats that GPTQ does not round column by column here.

    Raises:
        ValueError: no scales, blocks of several rows, two levels of scales, or zero points.
    """
    scaling = fmt.scaling
    if scaling is None or scaling.rows != 1 or scaling.two_level or fmt.asymmetric:
        raise ValueError(
            f"GPTQ takes weights with scales of rows or of groups along them, not {fmt}: "
            "take w4a16-g128 or w8a16, or leave GPTQ out"
        )


def gptq(
    weight: torch.Tensor, hessian: Hessian, fmt: TensorFormat, *, act_order: bool = False
) -> QuantizedTensor:
    """Codes of a weight under GPTQ.

    Args:
        weight: (N, K) fp32.
        hessian: of the layer's inputs, K features.
        fmt: scales of rows or of groups along K.
        act_order: columns by descending diagonal of the Hessian; scales of groups are then those of
            the weight as it was, because a group's columns are no longer neighbours in the order.
    Raises:
        ValueError: see :func:`check_gptq`.
    """
    check_gptq(fmt)
    assert fmt.scaling is not None
    rows, cols = weight.shape
    matrix = hessian.matrix.to(weight.device)
    order = torch.arange(cols, device=weight.device)
    if act_order:
        order = torch.argsort(matrix.diagonal(), descending=True, stable=True)
        matrix = matrix[order][:, order]
    left = weight.double()[:, order].clone()
    factors = _inverse_factor(matrix)
    width = fmt.scaling.cols or cols
    grid = empty_scales(rows, cols, fmt.scaling, weight.device)
    # Known from the start: scales of rows, and of groups whose columns are visited out of order.
    ahead = act_order or fmt.scaling.cols is None
    if ahead:
        found = quantize_tensor(weight, fmt).scales
        assert found is not None
        grid.copy_(found)
    patterns = torch.empty(rows, cols, dtype=_pattern_dtype(fmt), device=weight.device)
    for first in range(0, cols, BLOCK_COLUMNS):
        last = min(first + BLOCK_COLUMNS, cols)
        errors = torch.zeros(rows, last - first, dtype=torch.float64, device=weight.device)
        for j in range(first, last):
            place = int(order[j])
            if not ahead and place % width == 0:
                # Errors of this block have reached the group only where they are applied one by
                # one; what lies beyond the block has yet to get them.
                ready = left[:, j : j + width].clone()
                beyond = max(last, j) - j
                if beyond < ready.shape[1]:
                    done = errors[:, : j - first]
                    ready[:, beyond:] -= done @ factors[first:j, last : j + width]
                grid[:, place // width] = _scales(ready.float(), fmt)
            scale = grid[:, place // width]
            codes = encode(divide(left[:, j].float(), scale), fmt.element, fmt.rounding)
            patterns[:, place] = codes
            rounded = decode(codes, fmt.element).double() * scale.double()
            errors[:, j - first] = (left[:, j] - rounded) / factors[j, j]
            left[:, j + 1 : last] -= errors[:, j - first, None] * factors[j, j + 1 : last]
        left[:, last:] -= errors @ factors[first:last, last:]
    codes = patterns.view(code_dtype(fmt.element))
    return QuantizedTensor(codes=codes, scales=grid, format=fmt)


def _inverse_factor(matrix: torch.Tensor) -> torch.Tensor:
    """Upper triangular U with ``U^T U`` the inverse of a damped Hessian."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _pattern_dtype(fmt: TensorFormat) -> torch.dtype:
    return torch.uint8 if fmt.element.bits <= 8 else torch.int16


def _scales(group: torch.Tensor, fmt: TensorFormat) -> torch.Tensor:
    """Scales of one group's rows, by the format's own rule."""
    assert fmt.scaling is not None
    one = replace(fmt, scaling=replace(fmt.scaling, cols=group.shape[1]))
    found = quantize_tensor(group, one).scales
    assert found is not None
    return found[:, 0]
