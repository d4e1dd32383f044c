"""Which linear layers run on kernels: the route of ``workbench.nn``, and what ran."""

from collections.abc import Callable

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.recipes import Recipe
from workbench.nn.backend import Backend
from workbench.nn.runtime import backend_of
from workbench.ptq.decoded_route import DecodedRoute
from workbench.ptq.operand import Operand, Scales
from workbench.ptq.outliers import OutlierWeights
from workbench.ptq.routes import (
    CodesRoute,
    OutlierRoute,
    Route,
    WeightOnlyRoute,
    problem_of,
    under_one,
)

__all__ = ["KernelPath"]

_REFERENCE = "reference (values of codes, multiplied in the model's dtype)"


class KernelPath:
    """Chooses per product between a device's kernels and the values that codes stand for.

    ``ran`` says for every pair of formats and kind of device which it was last, and why no kernel
    where none.
    """

    def __init__(self, given: Backend | None = None) -> None:
        """Serve the layers of a model.

        Args:
            given: multiplies codes on every device; default: the kernels of CUDA devices, and
                none elsewhere.
        """
        self.ran: dict[str, str] = {}
        self._given = None if given is None else CodesRoute(given)
        #: By device and kind of route; a text says why there is none.
        self._found: dict[tuple[torch.device, type[Route]], Route | str] = {}
        self._outliers: dict[torch.device, OutlierRoute | str] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> "KernelPath":
        """Itself: copies of a layer share what was found about a device."""
        return self

    def route(self, operand: Operand, weight: QuantizedTensor, x: torch.Tensor) -> Route | None:
        """What multiplies a layer's input by its weight; ``None``: no kernel does."""
        reasons = []
        for kind in self._kinds(operand, weight):
            found = self._of(kind, x)
            if not isinstance(found, str):
                rows = x.numel() // x.shape[-1]
                problem = problem_of(rows, weight, operand.format, x.dtype)
                found = found.refusal(problem) or found
            if not isinstance(found, str):
                self._tell(operand, weight, x, found.name)
                return found
            reasons.append(found)
        self._tell(operand, weight, x, f"{_REFERENCE}: {'; '.join(dict.fromkeys(reasons))}")
        return None

    def _tell(self, operand: Operand, weight: QuantizedTensor, x: torch.Tensor, what: str) -> None:
        self.ran[f"{operand.format} x {weight.format} on {x.device.type}"] = what

    def outlier_product(
        self,
        apart: OutlierWeights,
        x: torch.Tensor,
        weight: QuantizedTensor,
        values: Callable[[], torch.Tensor],
        bias: torch.Tensor | None,
        recipe: Recipe,
    ) -> torch.Tensor | None:
        """A product of (rows, K) with outlier columns apart, if a kernel serves it.

        Args:
            values: makes what the weight's codes stand for.
        """
        if x.device not in self._outliers:
            self._outliers[x.device] = _outlier_route(x.device)
        found: OutlierRoute | torch.Tensor | str = self._outliers[x.device]
        if isinstance(found, OutlierRoute):
            found = found.product(x, weight, apart.full(values()), bias, recipe)
        text = f"{_REFERENCE}: {found}" if isinstance(found, str) else OutlierRoute.name
        self.ran[f"{recipe.activation} x {weight.format}, outliers on {x.device.type}"] = text
        return None if isinstance(found, str) else found

    def _kinds(self, operand: Operand, weight: QuantizedTensor) -> tuple[type[Route], ...]:
        """Ways to multiply these formats, the preferred first."""
        if operand.scales is Scales.DIRECT and operand.format.element.bits >= 16:
            return (WeightOnlyRoute,)
        if all(_has_codes(under_one(fmt)) for fmt in (operand.format, weight.format)):
            return (CodesRoute,) if self._given is not None else (CodesRoute, DecodedRoute)
        return (DecodedRoute,)

    def _of(self, kind: type[Route], x: torch.Tensor) -> Route | str:
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float16) or x.numel() == 0:
            return f"inputs of {x.dtype}"
        if self._given is not None and kind is CodesRoute:
            return self._given
        if x.device.type != "cuda":
            return f"no kernels on {x.device.type}"
        if (x.device, kind) not in self._found:
            self._found[x.device, kind] = _device_route(x.device, kind)
        return self._found[x.device, kind]


def _outlier_route(device: torch.device) -> OutlierRoute | str:
    from workbench.nn.cuda_device import limits_of

    if device.type != "cuda":
        return f"no kernels on {device.type}"
    try:
        return OutlierRoute(limits_of(device))
    except ValueError as error:  # no CuPy, or no GPU file
        return str(error)


def _device_route(device: torch.device, kind: type[Route]) -> Route | str:
    from workbench.nn.cuda_device import limits_of

    try:
        if kind is CodesRoute:
            return CodesRoute(backend_of(device))
        limits = limits_of(device)
    except ValueError as error:  # no CuPy, or no GPU file
        return str(error)
    return WeightOnlyRoute(limits) if kind is WeightOnlyRoute else DecodedRoute(limits)


def _has_codes(fmt: TensorFormat) -> bool:
    """True for one level of scales over elements that the layers' kernels take as operands."""
    scaled = fmt.scaling is not None and not fmt.scaling.two_level
    return scaled and fmt.element.name in CODE_DTYPES and not fmt.asymmetric
