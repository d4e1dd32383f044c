"""Which linear layers run on kernels: the route of ``workbench.nn``, and what ran."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import CODE_DTYPES, QuantizedTensor
from workbench.nn.backend import Backend
from workbench.nn.codes import Codes
from workbench.nn.runtime import backend_of
from workbench.ptq.operand import Operand, Scales

__all__ = ["KernelPath"]


class KernelPath:
    """Chooses per product between a device's kernels and the values that codes stand for.

    ``ran`` says for every pair of formats and device which it was, and why no kernel where none.
    """

    def __init__(self, given: Backend | None = None) -> None:
        """Serve the layers of a model.

        Args:
            given: computes products on every device; default: the kernels of CUDA devices, and
                none elsewhere.
        """
        self.given = given
        self.ran: dict[str, str] = {}
        self._found: dict[torch.device, Backend | str] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> "KernelPath":
        """Itself: copies of a layer share what was found about a device."""
        return self

    def backend(self, operand: Operand, weight: QuantizedTensor, x: torch.Tensor) -> Backend | None:
        """The backend that multiplies these codes on this device; ``None``: none does."""
        found = self._of(operand, weight, x)
        reference = "reference (values of codes, multiplied in the model's dtype)"
        text = f"{reference}: {found}" if isinstance(found, str) else f"{found.name} backend"
        self.ran[f"{operand.format} x {weight.format} on {x.device.type}"] = text
        return None if isinstance(found, str) else found

    def _of(self, operand: Operand, weight: QuantizedTensor, x: torch.Tensor) -> Backend | str:
        if operand.scales is Scales.DIRECT or weight.scales is None:
            return "kernels multiply codes with scales on both sides"
        if not (_has_codes(operand.format) and _has_codes(weight.format)):
            return "their elements or scales are no operands of the layers' kernels"
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or x.numel() == 0:
            return f"inputs of {x.dtype}"
        if self.given is not None:
            return self.given
        if x.device.type != "cuda":
            return f"no kernels on {x.device.type}"
        if x.device not in self._found:
            try:
                self._found[x.device] = backend_of(x.device)
            except ValueError as error:
                self._found[x.device] = str(error)
        return self._found[x.device]

    @staticmethod
    def product(
        backend: Backend,
        operand: Operand,
        x: torch.Tensor,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """``x · W^T + bias`` of (rows, K), on codes, in the dtype of ``x``."""
        if operand.scale is None:
            codes = backend.quantize(x, operand.format)
        else:
            codes = Codes(main=operand.codes(x))
        return backend.product(codes, Codes(main=weight), dtype=x.dtype, bias=bias)


def _has_codes(fmt: TensorFormat) -> bool:
    scaling = fmt.scaling
    plain = scaling is not None and scaling.stored.name == "fp32" and not scaling.two_level
    return plain and fmt.element.name in CODE_DTYPES and not fmt.asymmetric
