"""The plain-torch twin of the kernels: any device, slow, every rounding as the conventions say.

Operators are worked out in float64 by ``tiles.kernels.dataflow_reference``, products by a float64
product of what the codes stand for; each result is rounded to fp32 once and quantised by
``tiles.formats.torch_codec``.  So codes depend on no order of summation, but for sums that lie
within a few units of 2^-53 of the middle between two fp32 numbers.
"""

import math
from typing import ClassVar

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import code_dtype, encode
from tiles.formats.torch_random import random_bits
from tiles.formats.torch_scales import divide
from tiles.kernels.cuda.dataflow_blocks import drop_below
from tiles.kernels.dataflow_operands import drop_mask
from tiles.kernels.dataflow_reference import Inputs, Outcome, outcome
from tiles.kernels.outlier_packing import pack_blocks
from tiles.kernels.triton.outlier_operands import FallbackBlocks
from tiles.recipes import OutlierBlocks
from workbench.nn.backend import Attended, Backend, Normalized, NormGradients
from workbench.nn.codes import Codes
from workbench.nn.seeds import derived

__all__ = ["ReferenceBackend"]


class ReferenceBackend(Backend):
    """Every operator in torch; see the module's docstring."""

    name: ClassVar[str] = "reference"

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if not share:
            return Codes(main=quantize_tensor(x, out, seed=seed))
        packed = pack_blocks(x, out, OutlierBlocks(share=share))
        main = QuantizedTensor(codes=packed.codes, scales=packed.scales, format=out)
        assert isinstance(packed.outliers, FallbackBlocks)  # blocks were asked for, not columns
        return Codes(main=main, fallback=packed.outliers)

    def quantize_by(
        self, x: torch.Tensor, out: TensorFormat, scale: torch.Tensor, *, seed: int = 0
    ) -> Codes:
        random = None
        if out.rounding is Rounding.STOCHASTIC:
            random = random_bits(0, x.numel(), seed, x.device).view(x.shape)
        bits = encode(divide(x.float(), scale), out.element, out.rounding, random=random)
        codes = bits.contiguous().view(code_dtype(out.element))
        return Codes(main=QuantizedTensor(codes=codes, scales=scale, format=out))

    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        return x.dequantize(dtype)

    def _product(
        self, a: Codes, b: Codes, bias: torch.Tensor | None, turn_a: bool, turn_b: bool
    ) -> torch.Tensor:
        left, right = (x.dequantize(torch.float64) for x in (a, b))
        exact = (left.t() if turn_a else left) @ (right if turn_b else right.t())
        values = exact.float()
        return values if bias is None else values + bias.float()

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
        return self._product(a, b, bias, turn_a, turn_b).to(dtype)

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
        return self.quantize(self._product(a, b, bias, False, turn_b), out, seed=seed, share=share)

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
        values = _outcome(op, x, other=None if dy is None else dy.dequantize(torch.float64)).values
        return self.quantize(values.float(), out, seed=seed, share=share)

    def activate_backward(
        self, op: str, x: Codes, dy: torch.Tensor, *, out: TensorFormat, seed: int
    ) -> Codes:
        values = _outcome(f"{op}-bwd", x, other=dy.double()).values
        return self.quantize(values.float(), out, seed=seed)

    def gate(self, op: str, gate: Codes, up: Codes, *, out: TensorFormat, share: float) -> Codes:
        values = _outcome(op, gate).values * up.dequantize(torch.float64)
        return self.quantize(values.float(), out, share=share)

    def gate_backward(
        self, op: str, gate: Codes, up: Codes, dy: Codes, *, out: TensorFormat, seed: int
    ) -> tuple[Codes, Codes]:
        grad = dy.dequantize(torch.float64)
        through = _outcome(f"{op}-bwd", gate, other=grad * up.dequantize(torch.float64)).values
        beside = grad * _outcome(op, gate).values
        return (
            self.quantize(through.float(), out, seed=seed),
            self.quantize(beside.float(), out, seed=derived(seed, 0)),
        )

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
        below = drop_below(probability)
        keep = ~drop_mask(*x.shape, below, mask_seed, x.device)
        values = _outcome("dropout", x, keep=keep, keep_scale=65536 / (65536 - below)).values
        return self.quantize(values.float(), out, seed=seed, share=share)

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
        found = _outcome(op, x, gamma=_wide(gamma), beta=_wide(beta), epsilon=epsilon)
        mean, variance = (found.vectors[name][0].float() for name in ("mean", "variance"))
        y = self.quantize(found.values.float(), out, share=share)
        return Normalized(y=y, mean=mean, variance=variance)

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
        other = dy.dequantize(torch.float64)
        values, sums = _norm_backward(op, x, other, mean, variance, gamma, epsilon)
        return NormGradients(
            dx=self.quantize(values.float(), out, seed=seed),
            d_gamma=sums["d_gamma"],
            d_beta=sums.get("d_beta"),
        )

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
        values, sums = _norm_backward(op, x, dy.double(), mean, variance, gamma, epsilon)
        total = values if onto is None else values + onto.double()
        return total.to(dtype), sums["d_gamma"], sums.get("d_beta")

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        # In fp32 whatever the caller's autocast says, as backward is, which runs without it.
        with torch.autocast(q.device.type, enabled=False):
            scores = _scores(q, k, causal)
            log_sum = scores.logsumexp(dim=-1)
            weights = (scores - log_sum[..., None]).exp()
            return Attended(out=(weights @ v.float()).to(v.dtype), log_sum=log_sum)

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
        weights = (_scores(q, k, causal) - attended.log_sum[..., None]).exp()
        grad = dy.float()
        d_v = weights.transpose(-1, -2) @ grad
        # Row sums of weights times their gradient, as FlashAttention has them: from the output.
        level = (grad * attended.out.float()).sum(dim=-1, keepdim=True)
        d_scores = weights * (grad @ v.float().transpose(-1, -2) - level) / math.sqrt(q.shape[-1])
        d_q = d_scores @ k.float()
        d_k = d_scores.transpose(-1, -2) @ q.float()
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _wide(vector: torch.Tensor | None) -> torch.Tensor | None:
    return None if vector is None else vector.double()


def _outcome(op: str, x: Codes, **rest: object) -> Outcome:
    return outcome(op, Inputs(x=x.dequantize(torch.float64), **rest))  # type: ignore[arg-type]


def _norm_backward(
    op: str,
    x: Codes,
    dy: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gamma: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The gradient of ``x`` in float64, and the vectors' in fp32."""
    found = _outcome(
        f"{op}-bwd",
        x,
        other=dy,
        mean=_wide(mean),
        variance=_wide(variance),
        gamma=_wide(gamma),
        epsilon=epsilon,
    )
    values: torch.Tensor = found.values
    return values, {name: value.float() for name, (value, _) in found.vectors.items()}


def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool) -> torch.Tensor:
    """Scaled products of queries and keys in fp32; those of later keys are minus infinity."""
    scores = q.float() @ k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
    if not causal:
        return scores
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -math.inf)
