"""What calibration sees of a tensor, and the amax that its scale shall follow from."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.block_scales import MSE_STEPS
from tiles.formats.torch_codec import quantize_tensor
from tiles.formats.torch_encode import decode, encode
from tiles.formats.torch_scales import divide
from workbench.ptq.scheme import Calibration, Rule

__all__ = ["MAGNITUDE_BITS", "Observer", "scale_of"]

#: Leading bits of an fp32 magnitude by which a histogram tells magnitudes apart: exponent and nine
#: bits of mantissa, so that a bin is at most 2^-9 of its values wide.
MAGNITUDE_BITS = 17
_SHIFT = 31 - MAGNITUDE_BITS


def scale_of(amax: torch.Tensor, fmt: TensorFormat) -> torch.Tensor:
    """The fp32 scale, without dimensions, of a tensor with one scale and this amax.

    By the format's own rule, as the codec applies it to a tensor with no other value.
    """
    found = quantize_tensor(amax.float().view(1, 1), fmt).scales
    assert found is not None  # of a format with scales
    return found.reshape(())


class Observer:
    """Collects magnitudes of a tensor over calibration."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.amax: torch.Tensor | None = None  #: fp32 without dimensions
        self.counts: torch.Tensor | None = None  #: int64, values by the leading bits of magnitudes

    @property
    def seen(self) -> bool:
        """True once something was observed."""
        return self.amax is not None

    def add(self, x: torch.Tensor) -> None:
        """Take in a tensor of any shape.

        Raises:
            ValueError: it holds a NaN or an infinity.
        """
        if x.numel() == 0:
            return
        magnitudes = x.detach().float().abs()
        amax = magnitudes.amax()  # NaN wins over numbers
        if not bool(amax.isfinite()):
            raise ValueError("holds NaN or infinite values")
        self.amax = amax if self.amax is None else torch.maximum(self.amax, amax)
        if self.calibration.rule is Rule.MAX:
            return
        places = magnitudes.reshape(-1).view(torch.int32) >> _SHIFT
        counts = torch.bincount(places, minlength=1 << MAGNITUDE_BITS)
        self.counts = counts if self.counts is None else self.counts + counts

    def clip(self, fmt: TensorFormat) -> torch.Tensor:
        """The magnitude, fp32 without dimensions, that a scale of ``fmt`` shall follow from."""
        assert self.amax is not None
        match self.calibration.rule:
            case Rule.MAX:
                return self.amax
            case Rule.PERCENTILE:
                return torch.minimum(self._percentile(), self.amax)
            case Rule.MSE:
                return self._least_squares(fmt)

    def _percentile(self) -> torch.Tensor:
        """The upper end of the bin that the percentile's nearest rank lies in."""
        assert self.counts is not None
        assert self.calibration.percentile is not None
        total = int(self.counts.sum())
        # In integers, as ``Scaling.rank`` has it.
        rank = max(1, -(-round(self.calibration.percentile * 10_000) * total // 1_000_000))
        place = torch.searchsorted(self.counts.cumsum(0), rank)
        last = ((place + 1) << _SHIFT) - 1
        return last.to(torch.int32).view(torch.float32)

    def _least_squares(self, fmt: TensorFormat) -> torch.Tensor:
        """Of the candidates the clip of least squared error over the histogram's middles."""
        assert self.counts is not None
        assert self.amax is not None
        places = self.counts.nonzero()[:, 0]
        weights = self.counts[places].double()
        middles = ((places << _SHIFT) + (1 << (_SHIFT - 1))).to(torch.int32).view(torch.float32)
        middles = torch.where(places == 0, 0.0, torch.minimum(middles, self.amax))
        best, chosen = torch.inf, self.amax
        for step in range(MSE_STEPS):
            clip = self.amax * (1 - step / (2 * MSE_STEPS))
            scale = scale_of(clip, fmt)
            codes = encode(divide(middles, scale), fmt.element, fmt.rounding)
            rounded = decode(codes, fmt.element).double() * scale.double()
            error = float(((middles.double() - rounded).square() * weights).sum())
            if error < best:  # of equals the largest clip
                best, chosen = error, clip
        return chosen
