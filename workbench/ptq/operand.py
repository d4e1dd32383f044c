"""An operand of a quantised operator: its format, where its scale comes from, and its rounding.

Rounding is that of the repository's codec: ``decode(encode(x / scale)) x scale``, divisions in
IEEE fp32 (``docs/conventions.md``).
"""

from dataclasses import replace
from enum import Enum

import torch

from tiles.formats import Rounding, ScaleRule, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales, quantize_tensor
from tiles.formats.torch_encode import code_dtype, decode, encode
from tiles.formats.torch_scales import divide
from workbench.ptq.observer import Observer, scale_of
from workbench.ptq.scheme import Calibration, Rule

__all__ = ["Operand", "Scales", "round_matrices", "round_scaled"]


class Scales(Enum):
    """Where the scales of an operand come from."""

    DIRECT = "direct"  #: there are none: values are cast
    STATIC = "static"  #: one for the tensor, found by calibration
    DYNAMIC = "dynamic"  #: of each call's own data

    def __str__(self) -> str:
        return self.value


def round_scaled(x: torch.Tensor, fmt: TensorFormat, scale: torch.Tensor | None) -> torch.Tensor:
    """``x`` as its codes under one given scale stand for it, in the dtype of ``x``.

    Args:
        x: any shape, a float dtype.
        scale: fp32 without dimensions; ``None``: a direct cast.
    """
    wide = x.float().contiguous()
    if scale is not None:
        wide = divide(wide, scale)
    codes = encode(wide, fmt.element, fmt.rounding, saturate=fmt.saturate)
    values = decode(codes, fmt.element)
    return (values if scale is None else values * scale).to(x.dtype)


def round_matrices(x: torch.Tensor, fmt: TensorFormat, *, apart: bool = False) -> torch.Tensor:
    """``x`` rounded under scales of its own, along its last dimension, K.

    Args:
        x: (..., rows, K); leading dimensions are further rows of one matrix.
        apart: leading dimensions count matrices, and no block spans two of them.
    """
    if x.numel() == 0:
        return x
    block_rows = None if fmt.scaling is None else fmt.scaling.rows
    if apart and x.ndim > 2 and block_rows not in (None, 1):
        parts = x.reshape(-1, *x.shape[-2:])
        made = torch.stack([round_matrices(part, fmt) for part in parts])
        return made.view(x.shape)
    matrix = x.reshape(-1, x.shape[-1])
    kept = matrix if matrix.dtype in (torch.float32, torch.bfloat16, torch.float16) else None
    source = matrix.float() if kept is None else kept
    return quantize_tensor(source, fmt).dequantize().view(x.shape).to(x.dtype)


class Operand:
    """Rounds one operand, calibrated or by each call's data.

    Static scales serve formats with one scale a tensor; rows and blocks are scaled by each call's
    own data, as what they belong to differs from call to call.
    """

    def __init__(
        self, fmt: TensorFormat, calibration: Calibration, *, dynamic: bool = False
    ) -> None:
        """Start without a scale.

        Args:
            fmt: element and scaling.
            calibration: rule of a static scale; a format that names a rule of its own keeps it.
            dynamic: no static scale.
        """
        if fmt.rounding is Rounding.STOCHASTIC:
            raise ValueError(f"{fmt}: post-training quantisation rounds to nearest; leave out +sr")
        self.format = fmt
        self.scales = _scales(fmt, dynamic)
        self.scale: torch.Tensor | None = None  #: fp32 without dimensions, of ``STATIC``
        self._clipped = _single(fmt)
        self.observer = Observer(_own_rule(fmt) or calibration)

    @property
    def ready(self) -> bool:
        """True once it can round."""
        return self.scales is not Scales.STATIC or self.scale is not None

    def observe(self, x: torch.Tensor) -> None:
        """Take a tensor of calibration in.

        Raises:
            ValueError: it holds a NaN or an infinity.
        """
        if self.scales is Scales.STATIC:
            self.observer.add(x)
        elif x.numel() and not bool(x.isfinite().all()):
            raise ValueError("holds NaN or infinite values")

    def settle(self) -> None:
        """Fix the scale by what was observed; without observations there is none."""
        if self.scales is Scales.STATIC and self.observer.seen:
            self.scale = scale_of(self.observer.clip(self._clipped), self._clipped)

    def rounded(self, x: torch.Tensor, *, along: int = -1, apart: bool = False) -> torch.Tensor:
        """``x`` as its codes stand for it.

        Args:
            x: any shape.
            along: dimension of K, the last or the one before it.
            apart: see :func:`round_matrices`.
        """
        if self.scales in (Scales.STATIC, Scales.DIRECT):
            return round_scaled(x, self.format, self._scale_on(x.device))
        if along == -1:
            return round_matrices(x, self.format, apart=apart)
        turned = round_matrices(x.transpose(-1, along), self.format, apart=apart)
        return turned.transpose(-1, along)

    def _scale_on(self, device: torch.device) -> torch.Tensor | None:
        """The static scale, which stays where it was used last: a copy would wait for the GPU."""
        scale = self.scale
        if scale is not None and scale.device != device:
            self.scale = scale = scale.to(device)
        return scale

    def codes(self, x: torch.Tensor) -> QuantizedTensor:
        """Codes of a (rows, K) matrix, as products of codes take them."""
        scale = self._scale_on(x.device)
        if scale is None:
            return quantize_tensor(x, self.format)
        scaling = self.format.scaling
        assert scaling is not None  # of a static scale
        patterns = encode(divide(x.float(), scale), self.format.element, self.format.rounding)
        grid = empty_scales(x.shape[0], x.shape[1], scaling, x.device)
        grid.copy_(scale)
        codes = patterns.view(code_dtype(self.format.element))
        return QuantizedTensor(codes=codes, scales=grid, format=self.format)


def _scales(fmt: TensorFormat, dynamic: bool) -> Scales:
    if fmt.scaling is None:
        return Scales.DIRECT
    one = fmt.scaling.rows is None and fmt.scaling.cols is None
    static = one and not (dynamic or fmt.scaling.two_level or fmt.asymmetric)
    return Scales.STATIC if static else Scales.DYNAMIC


def _single(fmt: TensorFormat) -> TensorFormat:
    """The format without a rule that searches: the observer has searched."""
    if _own_rule(fmt) is None or fmt.scaling is None:
        return fmt
    return replace(fmt, scaling=replace(fmt.scaling, rule=ScaleRule.ABSMAX, percentile=None))


def _own_rule(fmt: TensorFormat) -> Calibration | None:
    if fmt.scaling is None:
        return None
    if fmt.scaling.rule is ScaleRule.MSE:
        return Calibration(rule=Rule.MSE)
    if fmt.scaling.rule is ScaleRule.PERCENTILE:
        return Calibration(rule=Rule.PERCENTILE, percentile=fmt.scaling.percentile)
    return None
