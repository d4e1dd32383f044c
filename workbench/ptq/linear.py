"""The linear layer: on kernels where there are some, on the values of its codes elsewhere."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.recipes import OutlierColumns
from workbench.ptq.gptq import Hessian, gptq
from workbench.ptq.kernel_path import KernelPath
from workbench.ptq.layers import QuantizedLayer
from workbench.ptq.operator import Phase, Session
from workbench.ptq.outliers import OutlierWeights
from workbench.ptq.routes import Held
from workbench.ptq.scheme import Kind

__all__ = ["QuantizedLinear"]


class QuantizedLinear(QuantizedLayer):
    """``nn.Linear``; may be smoothed, have outlier columns apart, and be rounded by GPTQ."""

    kind = Kind.LINEAR

    def __init__(
        self, name: str, layer: nn.Linear, session: Session, fmt: TensorFormat, path: KernelPath
    ) -> None:
        """As :class:`QuantizedLayer`.

        Args:
            path: finds the kernels, and remembers what ran.
        """
        super().__init__(name, layer, session, fmt)
        self.path = path
        self.register_buffer("smoothing", None)
        self.smoothing: torch.Tensor | None  # (K) fp32 that inputs are divided by
        self.channel_amax: torch.Tensor | None = None  #: (K) fp32, of smoothing
        self.hessian: Hessian | None = None
        self.apart: OutlierWeights | None = None
        self.held: Held = {}  #: the weight as a kernel's layout has it
        outliers = session.recipe.outliers
        if isinstance(outliers, OutlierColumns):
            self.apart = OutlierWeights(outliers)

    @property
    def smooths(self) -> bool:
        """True where its inputs are narrow enough for smoothing to matter."""
        scheme, fmt = self.operator.session.scheme, self.operator.operands["input"].format
        return scheme.smooth is not None and fmt.element.bits < 16

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        """The input, smoothed."""
        return x if self.smoothing is None else (x.float() / self.smoothing).to(x.dtype)

    @property
    def source(self) -> torch.Tensor:
        """The weight that is to be quantised, smoothed."""
        weight = super().source
        return weight if self.smoothing is None else weight * self.smoothing

    @property
    def stored(self) -> torch.Tensor:
        """The codes' values as others multiply by them, whose inputs nobody smooths."""
        values = self.values
        return values if self.smoothing is None else (values.float() / self.smoothing).to(values)

    def see_channels(self, x: torch.Tensor) -> None:
        """Largest magnitude of every input feature."""
        if not self.smooths or x.numel() == 0:
            return
        amax = x.detach().float().reshape(-1, x.shape[-1]).abs().amax(dim=0)
        known = self.channel_amax
        self.channel_amax = amax if known is None else torch.maximum(known, amax)

    def smooth(self) -> None:
        """Fix the smoothing factors by what was seen.

        ``s = amax(x)^alpha / amax(w)^(1 - alpha)`` a feature; 1 where either is zero.
        Source: SmoothQuant, arXiv 2211.10438, equation 4.  The division stays in this layer: it is
        not folded into what comes before, whose output others may read.
        """
        alpha = self.operator.session.scheme.smooth
        if alpha is None or self.channel_amax is None:
            return
        weights = super().source.abs().amax(dim=0)
        factors = self.channel_amax.pow(alpha) / weights.pow(1 - alpha)
        usable = (self.channel_amax > 0) & (weights > 0) & factors.isfinite() & (factors > 0)
        self.smoothing = torch.where(usable, factors, 1.0)
        self.channel_amax = None

    def forward(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """(..., K) to (..., N)."""
        session = self.operator.session
        if session.phase is Phase.OBSERVE and inputs and inputs[0].numel():
            with torch._C.DisableTorchFunction():
                x = self.prepared(inputs[0]).detach()
                matrix = x.reshape(-1, x.shape[-1]).float()
                if session.scheme.gptq:
                    self.hessian = self.hessian or Hessian(matrix.shape[1], matrix.device)
                    self.hessian.add(matrix)
                if self.apart is not None:
                    self.apart.see(matrix)
        return super().forward(*inputs, **options)

    def settle(self) -> None:
        """Quantise the weight, by GPTQ where the scheme says so and inputs were seen."""
        scheme, source = self.operator.session.scheme, self.source
        if scheme.gptq and self.hessian is not None:
            self.take(gptq(source, self.hessian, self.weight_format, act_order=scheme.act_order))
        else:
            super().settle()
        self.hessian = None
        if self.apart is not None:
            self.apart.take(source)

    def take(self, codes: QuantizedTensor) -> None:
        """Compute on these codes from now on."""
        super().take(codes)
        self.held = {}

    def rounded(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """(..., K) to (..., N)."""
        x = self.prepared(inputs[0])
        operand, codes = self.operator.operands["input"], self.codes
        assert codes is not None
        if self.apart is not None:
            y = self.path.outlier_product(
                self.apart,
                x.reshape(-1, x.shape[-1]),
                codes,
                lambda: self.values,
                self.bias,
                self.operator.session.recipe,
            )
            if y is None:
                return self.apart.product(x, self.values, self.bias, operand)
            return y.view(*x.shape[:-1], self.weight_shape[0])
        route = self.path.route(operand, codes, x)
        if route is None:
            return F.linear(operand.rounded(x), self.values, self.bias)
        matrix = x.reshape(-1, x.shape[-1])
        y = route.product(operand, matrix, codes, self.bias, self.held)
        return y.view(*x.shape[:-1], self.weight_shape[0])

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self.smoothing is not None:
            self.smoothing = self.smoothing.float()
        return self
