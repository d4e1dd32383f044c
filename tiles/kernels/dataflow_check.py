"""Compares what a dataflow kernel wrote with the float64 reference, on any device.

A scale must be that of a largest value within the reference's error.  Codes are judged under the
kernel's own scale: the reference's value over it, moved down and up by the error that is allowed,
is rounded by the codec, stochastically with the element's own random bits; the code must lie
between the two, ends included.  So wherever the error does not straddle a rounding point, the code
is right to the bit.
"""

from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_encode import decode, encode
from tiles.formats.torch_random import random_bits
from tiles.kernels.base import Accuracy
from tiles.kernels.dataflow_reference import TINY, Outcome, U

__all__ = ["compare", "compare_vector"]

#: Rows of this many elements are compared at once.
_PIECE_ELEMENTS = 2**24
#: Ratios err by 32 units of 2^-24 beside the value's own error (multiplier, its product, the stored
#: scale); what of a ratio lies below the 16 random bits may count up to one of them.
RATIO_ERROR, STEP_ERROR = 32 * U, 2.0**-16
_LARGEST = 3.4028234663852886e38


def _spread(grid: torch.Tensor, block: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
    wide = grid.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def _peaks(x: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Largest magnitude of every block; NaN wins."""
    rows, cols = x.shape
    padded = torch.nn.functional.pad(abs(x), (0, -cols % block[1], 0, -rows % block[0]))
    tiles = padded.view(padded.shape[0] // block[0], block[0], -1, block[1])
    return tiles.amax(dim=(1, 3))


def _first(bad: torch.Tensor) -> tuple[int, int]:
    flat = int(bad.reshape(-1).to(torch.uint8).argmax())
    return divmod(flat, bad.shape[1])


def compare(
    codes: torch.Tensor,
    scales: torch.Tensor,
    reference: Outcome,
    fmt: TensorFormat,
    seed: int,
) -> Accuracy:
    """Judge codes (R, C) and scales of a kernel; seed is that of stochastic rounding.

    ``max_error_over_bound`` is the largest distance of a code's value from the reference's ratio in
    units of one step and the error allowed.
    """
    assert fmt.scaling is not None
    scaling = fmt.scaling
    shape = (codes.shape[0], codes.shape[1])
    block = (scaling.rows or shape[0], scaling.cols or shape[1])
    band = max(1, _PIECE_ELEMENTS // shape[1] // block[0]) * block[0]
    worst, total, error = 0.0, 0.0, 0.0
    for top in range(0, shape[0], band):
        rows = slice(top, min(top + band, shape[0]))
        grid = scales[top // block[0] : -(-rows.stop // block[0])]
        verdict = _compare_band(
            codes[rows], grid, reference.values[rows], reference.error[rows], fmt, block,
            top * shape[1], seed,
        )  # fmt: skip
        if isinstance(verdict, str):
            reason = verdict.format(top=top)
            return Accuracy(
                ok=False, max_error_over_bound=float("inf"), relative_rms=1.0, reason=reason
            )
        worst = max(worst, verdict[0])
        error, total = error + verdict[1], total + verdict[2]
    return Accuracy(
        ok=True,
        max_error_over_bound=worst,
        relative_rms=(error / total) ** 0.5 if total > 0 else 0.0,
    )


def _compare_band(
    codes: torch.Tensor,
    scales: torch.Tensor,
    values: torch.Tensor,
    error: torch.Tensor,
    fmt: TensorFormat,
    block: tuple[int, int],
    first: int,
    seed: int,
) -> Any:
    """(largest error over bound, squared error, squared reference), or what is wrong."""
    shape = (codes.shape[0], codes.shape[1])
    top = fmt.element.max
    patterns = codes.view(torch.uint8)
    peaks, slack = _peaks(values, block), _peaks(error.nan_to_num(), block)
    poisoned = ~(peaks <= _LARGEST)
    wanted = peaks / top
    zero = peaks <= slack + TINY
    allowed = (slack + 4 * U * peaks) / top
    wrong = (abs(scales.double() - wanted) > allowed) & ~(zero & (scales == 1.0))
    wrong = torch.where(poisoned, ~scales.isnan(), wrong | ~(scales > 0))
    if wrong.any():
        row, col = _first(wrong)
        return (
            f"scale of the block at row {{top}} + {row * block[0]}, column {col * block[1]}: "
            f"{float(scales[row, col])!r}, wanted {float(wanted[row, col])!r}; {int(wrong.sum())} "
            "are wrong"
        )
    # Under scale 1 of a block of zeros all ratios are within the error of zero.
    divisors = _spread(scales.double(), block, shape)
    ratio = values / divisors
    reach = error / divisors + RATIO_ERROR * abs(ratio) + STEP_ERROR
    random = None
    if fmt.rounding is Rounding.STOCHASTIC:
        random = random_bits(first, codes.numel(), seed, codes.device).view(shape)
    low, high = (
        decode(encode(moved.float(), fmt.element, fmt.rounding, random=random), fmt.element)
        for moved in (ratio - reach, ratio + reach)
    )
    got = decode(patterns, fmt.element)
    bad = ~((low <= got) & (got <= high))
    lost = _spread(poisoned, block, shape)
    nan_code = getattr(fmt.element, "nan_code", None) or 0
    bad = torch.where(lost, patterns != nan_code, bad)
    if bad.any():
        row, col = _first(bad)
        return (
            f"code at row {{top}} + {row}, column {col}: {float(got[row, col])!r}, wanted "
            f"{float(low[row, col])!r} to {float(high[row, col])!r} for "
            f"{float(ratio[row, col])!r}; {int(bad.sum())} are wrong"
        )
    there = ~lost
    apart = (got.double() - ratio).where(there, 0.0)
    step = torch.maximum(abs(ratio) * 2.0**-3, torch.tensor(2.0**-9, dtype=torch.float64))
    unit = 1.0 if nan_code == 0 else step.where(there, 1.0)
    over = (abs(apart) / (unit + reach.where(there, 1.0))).max()
    squared = (apart * divisors.where(there, 0.0)) ** 2
    return float(over), float(squared.sum()), float((values.where(there, 0.0) ** 2).sum())


def compare_vector(name: str, written: torch.Tensor, value: Any, error: Any) -> str:
    """What is wrong with a vector of the kernel, or nothing; not finite as the reference is."""
    reference, bound = torch.as_tensor(value), torch.as_tensor(error)
    finite = abs(reference) <= _LARGEST
    close = abs(written.double() - reference) <= bound + 2 * U * abs(reference)
    bad = torch.where(finite, ~close, written.isfinite())
    if not bad.any():
        return ""
    index = int(bad.to(torch.uint8).argmax())
    return (
        f"{name}[{index}] = {float(written[index])!r}, wanted {float(reference[index])!r} within "
        f"{float(bound[index]):.3g}; {int(bad.sum())} are wrong"
    )
