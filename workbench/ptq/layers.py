"""Layers with weights of their own, replaced by ones that compute on codes of them."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales, quantize_tensor
from workbench.ptq.operand import Operand
from workbench.ptq.operator import Operator, Phase, Session
from workbench.ptq.products import Convolution
from workbench.ptq.scheme import Kind

__all__ = ["QuantizedConv", "QuantizedEmbedding", "QuantizedLayer", "moved", "weight_matrix"]


def weight_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A weight as (output channels, K) fp32; an embedding's as (entries, width)."""
    return weight.detach().reshape(weight.shape[0], -1).float()


def moved(codes: QuantizedTensor, device: torch.device) -> QuantizedTensor:
    """Codes and scales on a device, in the layout that kernels read them in."""
    if codes.codes.device == device:
        return codes
    kept = {
        name: None if (part := getattr(codes, name)) is None else part.to(device)
        for name in ("scales", "zero_points", "tensor_scale")
    }
    if codes.scales is not None and codes.format.scaling is not None:
        # ``to`` closes the gaps between columns of scales of 1xB blocks.
        rows, cols = codes.codes.shape
        kept["scales"] = empty_scales(rows, cols, codes.format.scaling, device).copy_(codes.scales)
    return QuantizedTensor(codes=codes.codes.to(device), format=codes.format, **kept)


class QuantizedLayer(nn.Module):
    """A layer that holds codes of its weight.

    Until :meth:`finish` it also refers to the layer that it stands for, which computes in high
    precision; that one is no part of the model's parameters.
    """

    kind: Kind

    def __init__(self, name: str, layer: nn.Module, session: Session, fmt: TensorFormat) -> None:
        """Stand for a layer.

        Args:
            name: in the model.
            layer: of the kind that the class serves.
            session: shared with the model's other operators.
            fmt: of the weight.
        Raises:
            ValueError: the weight is not finite.
        """
        super().__init__()
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"the weight of {name} holds NaN or infinite values: mend the model first"
            )
        bias = getattr(layer, "bias", None)
        self.bias: torch.Tensor | None
        self.register_parameter("bias", bias if isinstance(bias, nn.Parameter) else None)
        self.weight_format = fmt
        self.weight_shape = tuple(weight.shape)
        self.dtype = weight.dtype
        self.codes: QuantizedTensor | None = None
        self._values: torch.Tensor | None = None
        # Not registered: its parameters leave the model together with it.
        self._original: list[nn.Module] = [layer]
        self.operator = self._operator(name, session)
        self.train(layer.training)

    def _operator(self, name: str, session: Session) -> Operator:
        from workbench.ptq.formats import roles

        scheme = session.scheme
        operands = {
            role: Operand(fmt, scheme.calibration, dynamic=scheme.dynamic)
            for role, fmt in roles(self.kind, session.recipe).items()
        }
        return Operator(name, self.kind, session, operands)

    @property
    def original(self) -> nn.Module:
        """The layer that it stands for.

        Raises:
            AttributeError: after :meth:`finish` there is none, as for a name that does not exist.
        """
        if not self._original:
            raise AttributeError(f"{self.operator.name} has let go of the layer that it stands for")
        return self._original[0]

    @property
    def weight(self) -> torch.Tensor:
        """The weight that it computes with, for code that looks at it.

        Functions that multiply by it, as by the table of an embedding, are scored with it.
        """
        exact = self.operator.kept or self.operator.session.phase is not Phase.RUN
        if self._original and (exact or self.codes is None):
            weight = self.original.weight
            assert isinstance(weight, torch.Tensor)
            return weight
        return self.stored

    @property
    def stored(self) -> torch.Tensor:
        """What of the weight is left once it lies in codes."""
        return self.values

    @property
    def values(self) -> torch.Tensor:
        """What the codes stand for, in the weight's shape; made when first asked for.

        Kernels multiply codes: a layer that runs on them holds no weight of full size.
        """
        values = self._values
        if values is None:
            assert self.codes is not None  # once it is settled
            # Kept beyond torch.inference_mode(), whose tensors a backward pass may not save.
            with torch.inference_mode(False), torch.no_grad():
                values = self.codes.dequantize().view(self.weight_shape).to(self.dtype)
            self._values = values
        return values

    @property
    def source(self) -> torch.Tensor:
        """The weight that is to be quantised, (output channels, K) fp32."""
        weight = self.original.weight
        assert isinstance(weight, torch.Tensor)
        return weight_matrix(weight)

    def settle(self) -> None:
        """Quantise the weight, to nearest."""
        self.take(quantize_tensor(self.source, self.weight_format))

    def note_ragged(self) -> None:
        """Say where blocks along K do not come out even."""
        k, formats = self.source.shape[1], {"weight": self.weight_format}
        formats |= {role: o.format for role, o in self.operator.operands.items()}
        for role, fmt in formats.items():
            wide = None if fmt.scaling is None else fmt.scaling.cols
            if wide is not None and k % wide:
                self.operator.notes.append(
                    f"{role}: K of {k} is no multiple of {wide}, the last block has {k % wide}"
                )

    def take(self, codes: QuantizedTensor) -> None:
        """Compute on these codes from now on."""
        self.codes, self._values = codes, None

    def finish(self) -> None:
        """Let go of the layer that it stands for."""
        self._original = []

    def forward(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """As the layer that it stands for."""
        # Its own arithmetic is no operator of the model: nothing of it is intercepted.
        with torch._C.DisableTorchFunction():
            inputs = inputs or (options.pop("input"),)
            x = inputs[0]
            values = dict.fromkeys(self.operator.operands, self.prepared(x))
            if self.operator.session.phase is Phase.CHANNELS:
                self.see_channels(x)
            return self.operator.apply(
                lambda: self.original(*inputs, **options),
                lambda: self.rounded(*inputs, **options),
                values,
            )

    def prepared(self, x: torch.Tensor) -> torch.Tensor:
        """The input as it is rounded."""
        return x

    def see_channels(self, x: torch.Tensor) -> None:
        """Take in what smoothing needs; most layers need nothing."""

    @abstractmethod
    def rounded(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """The output on rounded operands."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch
        if self.codes is not None:
            # Bits keep their type; what they stand for is computed anew, for the new dtype.
            probe = fn(torch.empty(0, dtype=self.dtype, device=self.codes.codes.device))
            self.dtype = probe.dtype
            self.take(moved(self.codes, probe.device))
        for layer in self._original:
            layer._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch
        return self

    def extra_repr(self) -> str:
        shape = "x".join(map(str, self.weight_shape))
        inputs = "".join(f", {o.format} in" for o in self.operator.operands.values())
        return f"{shape} {self.weight_format}{inputs}"


class QuantizedConv(QuantizedLayer):
    """``nn.Conv1d`` and ``nn.Conv2d`` as implicit GEMMs."""

    kind = Kind.CONV

    def __init__(
        self, name: str, layer: nn.Conv1d | nn.Conv2d, session: Session, fmt: TensorFormat
    ) -> None:
        """As :class:`QuantizedLayer`."""
        super().__init__(name, layer, session, fmt)
        self.convolution = Convolution.of(layer)

    def rounded(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """(B, C, ...) to (B, N, ...)."""
        (x,) = inputs
        return self.convolution.product(x, self.values, self.bias, self.operator.operands["input"])


class QuantizedEmbedding(QuantizedLayer):
    """``nn.Embedding`` and ``nn.EmbeddingBag``: entries come out of a table of codes."""

    kind = Kind.EMBEDDING

    def __init__(
        self,
        name: str,
        layer: nn.Embedding | nn.EmbeddingBag,
        session: Session,
        fmt: TensorFormat,
    ) -> None:
        """As :class:`QuantizedLayer`."""
        super().__init__(name, layer, session, fmt)
        self.bag = isinstance(layer, nn.EmbeddingBag)
        self.options: dict[str, Any] = {}
        if isinstance(layer, nn.EmbeddingBag):
            self.options = {
                "mode": layer.mode,
                "include_last_offset": layer.include_last_offset,
                "padding_idx": layer.padding_idx,
            }

    def rounded(self, *inputs: torch.Tensor, **options: Any) -> torch.Tensor:
        """Indices to rows of what the table's codes stand for."""
        if not self.bag:
            return F.embedding(inputs[0], self.values)
        names = ("input", "offsets", "per_sample_weights")
        given = dict(zip(names, inputs, strict=False)) | options
        return F.embedding_bag(given.pop("input"), self.values, **given, **self.options)
