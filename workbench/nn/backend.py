"""What the layers ask of a device: products and operators on quantised matrices."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from tiles.formats import TensorFormat
from workbench.nn.assembly import Assembly, JoinedNumbers
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.fused_attention import FusedKernel

__all__ = ["ACTIVATIONS", "NORMS", "Attended", "Backend", "NormGradients", "Normalized"]

#: Elementwise operators; each has a ``-bwd`` of the same name in ``tiles.problems.DATAFLOW_OPS``.
ACTIVATIONS = ("gelu", "silu", "relu")
NORMS = ("layernorm", "rmsnorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalized:
    """A normalisation's output and the statistics that its backward pass needs."""

    y: Codes  #: (R, C)
    mean: torch.Tensor  #: (R) fp32
    variance: torch.Tensor  #: (R) fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class NormGradients:
    """Gradients of a normalisation."""

    dx: Codes  #: (R, C)
    d_gamma: torch.Tensor  #: (C) fp32
    d_beta: torch.Tensor | None  #: (C) fp32; RMSNorm has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """Output of an attention core and what its softmax divided by."""

    out: torch.Tensor  #: (batch, heads, tokens, head width), 16 bit
    #: fp32, logarithm of the sum of exponentials: (batch, heads, tokens), or with a 1 behind it
    log_sum: torch.Tensor
    kernel: FusedKernel | None = None  #: of torch's that computed it, for its own backward pass


class Backend(ABC):
    """Operators on matrices in codes; every output is quantised once, from its fp32 values.

    ``out`` is the format of the output; a stochastic one takes its random bits from the 64-bit key
    ``seed`` (``docs/conventions.md``).  ``share`` of an output's blocks, those with the largest
    magnitudes, keep what their codes leave in codes of their own (``tiles.recipes.OutlierBlocks``).
    """

    name: ClassVar[str]

    @abstractmethod
    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        """Codes of a (R, C) matrix of bf16, fp16 or fp32."""

    def quantize_both(self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0) -> Codes:
        """As :meth:`quantize`, for products that take the codes and their transpose.

        ``out`` serves both directions.  A backend that writes both in one pass leaves the transpose
        in ``Codes.turned``.
        """
        return self.quantize(x, out, seed=seed)

    def quantize_rounded(
        self, x: torch.Tensor, out: TensorFormat, dtype: torch.dtype
    ) -> tuple[Codes, torch.Tensor]:
        """Codes of a (R, C) matrix, and what they stand for, rounded to ``dtype``."""
        codes = self.quantize(x, out)
        return codes, self.dequantize(codes, dtype)

    def quantize_directions(self, x: torch.Tensor, out: TensorFormat) -> BothDirections:
        """Codes of a (R, C) matrix and of its transpose, each under scales of its own.

        Rounded to nearest; a stochastic format would draw the same bits for both.
        """
        return BothDirections(forward=self.quantize(x, out), turned=self.quantize(x.t(), out))

    def add(
        self,
        x: torch.Tensor,
        y: torch.Tensor | Codes,
        out: TensorFormat | None = None,
        *,
        both: bool = False,
        seed: int = 0,
    ) -> tuple[torch.Tensor, Codes | None]:
        """``x + y`` of (R, C) matrices, summed in fp32 and rounded once to the dtype of ``x``.

        Returns:
            The sum, and its codes in ``out`` where one is given, as of :meth:`quantize`.
        """
        other = self.dequantize(y, torch.float32) if isinstance(y, Codes) else y
        total = (x.float() + other.float()).to(x.dtype)
        if out is None:
            return total, None
        return total, (self.quantize_both if both else self.quantize)(total, out, seed=seed)

    def assembly(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        out: TensorFormat,
        *,
        parts: tuple[int, int],
        both: bool,
        seed: int = 0,
    ) -> Assembly:
        """Codes of a (R, C) matrix that comes in parts: those of :meth:`quantize` of the whole.

        Args:
            parts: rows and columns at multiples of which every part begins, and ends but for the
                last ones.
            both: as of :meth:`quantize_both`.
        """

        def quantized(matrix: torch.Tensor) -> Codes:
            quantize = self.quantize_both if both else self.quantize
            return quantize(matrix, out, seed=seed)

        return JoinedNumbers(torch.empty(shape, dtype=dtype, device=device), quantized)

    @abstractmethod
    def quantize_by(
        self, x: torch.Tensor, out: TensorFormat, scale: torch.Tensor, *, seed: int = 0
    ) -> Codes:
        """Codes of a (R, C) matrix under a scale (1, 1) fp32 that is given; the rest saturates."""

    @abstractmethod
    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        """What codes stand for, (R, C) rounded to ``dtype``."""

    @abstractmethod
    def product(
        self,
        a: Codes,
        b: Codes,
        *,
        dtype: torch.dtype,
        bias: torch.Tensor | None = None,
        turn_a: bool = False,
        turn_b: bool = False,
    ) -> torch.Tensor:
        """``a · b^T + bias`` in ``dtype``, (M, N) of (M, K) and (N, K).

        Args:
            bias: (N) of any float dtype, added in fp32.
            turn_a, turn_b: the operand is stored as (K, M) or (K, N); its blocks are square, or one
                scale serves it.
        """

    @abstractmethod
    def coded_product(
        self,
        a: Codes,
        b: Codes,
        *,
        out: TensorFormat,
        bias: torch.Tensor | None = None,
        turn_b: bool = False,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        """As :meth:`product`, quantised from the fp32 product."""

    @abstractmethod
    def elementwise(
        self,
        op: str,
        x: Codes,
        *,
        out: TensorFormat,
        dy: Codes | None = None,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        """An activation of ``ACTIVATIONS``, or its ``-bwd`` with the gradient ``dy``."""

    @abstractmethod
    def activate_backward(
        self, op: str, x: Codes, dy: torch.Tensor, *, out: TensorFormat, seed: int
    ) -> Codes:
        """Gradient of an activation whose own gradient ``dy`` (R, C) is in numbers."""

    @abstractmethod
    def gate(self, op: str, gate: Codes, up: Codes, *, out: TensorFormat, share: float) -> Codes:
        """``activation(gate) x up``: the heart of a gated linear unit."""

    @abstractmethod
    def gate_backward(
        self, op: str, gate: Codes, up: Codes, dy: Codes, *, out: TensorFormat, seed: int
    ) -> tuple[Codes, Codes]:
        """Gradients of both operands of :meth:`gate`; ``up``'s has the key ``derived(seed, 0)``."""

    @abstractmethod
    def dropout(
        self,
        x: Codes,
        *,
        out: TensorFormat,
        probability: float,
        mask_seed: int,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        """Dropout by the random bits of ``mask_seed``; its gradient is dropout of the gradient."""

    @abstractmethod
    def normalize(
        self,
        op: str,
        x: Codes,
        gamma: torch.Tensor,
        beta: torch.Tensor | None,
        *,
        epsilon: float,
        out: TensorFormat,
        share: float = 0.0,
    ) -> Normalized:
        """A norm of ``NORMS``; ``gamma`` and ``beta`` (LayerNorm's) are (C) fp32."""

    @abstractmethod
    def normalize_backward(
        self,
        op: str,
        x: Codes,
        dy: Codes,
        mean: torch.Tensor,
        variance: torch.Tensor,
        gamma: torch.Tensor,
        *,
        epsilon: float,
        out: TensorFormat,
        seed: int,
    ) -> NormGradients:
        """Gradients of :meth:`normalize` from what it read and the statistics it found."""

    @abstractmethod
    def normalize_gradient(
        self,
        op: str,
        x: Codes,
        dy: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        gamma: torch.Tensor,
        *,
        epsilon: float,
        dtype: torch.dtype,
        onto: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """As :meth:`normalize_backward`, of a gradient ``dy`` (R, C) in numbers.

        Args:
            gamma: (C) of any float dtype.
        Returns:
            The gradient of ``x``, plus ``onto`` (R, C) where that is given, rounded once to
            ``dtype``; then those of gamma and beta, fp32.
        """

    @abstractmethod
    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        """``softmax(q · k^T / sqrt(head width)) · v`` of 16-bit (batch, heads, tokens, width)."""

    @abstractmethod
    def attend_backward(
        self,
        dy: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attended: Attended,
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of q, k and v in their dtype."""
