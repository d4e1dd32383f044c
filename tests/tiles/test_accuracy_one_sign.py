"""Operands of one sign: every truncation of a tensor core then errs to the same side."""

import pytest
import torch

from tiles.kernels.accuracy import compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.gemm_workload import dequantize
from tiles.kernels.quantize_torch import quantize_torch
from tiles.problems import Gemm
from tiles.recipes import recipe

M, N, K = 64, 64, 4096


def truncating_sum(a: torch.Tensor, b: torch.Tensor, interval: int) -> torch.Tensor:
    """Hopper's fp8: d = 32, t = 14, truncated; sums of ``interval`` elements promoted to fp64."""
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
    for start in range(0, a.shape[1], interval):
        part = torch.zeros_like(total)
        for k in range(start, start + interval, 32):
            addends = a[:, None, k : k + 32] * b[None, :, k : k + 32]
            addends = torch.cat([addends, part[:, :, None]], dim=2)
            _, exponent = torch.frexp(addends.abs().amax(dim=2, keepdim=True))
            unit = 2.0 ** (exponent - 14).double()
            part = (torch.trunc(addends / unit) * unit).sum(dim=2)
        total += part
    return total


def operands(name: str, sign: float, mean: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """fp64 values of quantised normal data; ``sign`` 0 leaves the signs, else all have it."""
    generator = torch.Generator().manual_seed(3)
    chosen = recipe(name)
    values = []
    for rows, fmt in ((M, chosen.activation), (N, chosen.weight)):
        x = torch.randn(rows, K, generator=generator) + mean
        x = x.abs() if sign else x
        values.append(dequantize(*quantize_torch(x, fmt), fmt))
    return values[0] * (sign or 1.0), values[1]


@pytest.mark.parametrize(
    ("name", "interval"), [("e4m3-tensor", K), ("e4m3-row", K), ("deepseek-fp8", 128)]
)
@pytest.mark.parametrize(("sign", "mean"), [(1.0, 0.0), (-1.0, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_an_honest_truncating_sum_passes(
    name: str, interval: int, sign: float, mean: float
) -> None:
    a, b = operands(name, sign, mean)
    problem = Gemm(m=M, n=N, k=K, recipe=recipe(name), out="fp32")
    reference = gemm_reference(a, b, gemm_arithmetic(problem, decode=False))
    verdict = compare(truncating_sum(a, b, interval).to(torch.float32), reference)
    assert verdict.ok, verdict.reason


def test_a_wrong_scale_of_one_block_is_seen_among_promoted_sums_of_one_sign() -> None:
    a, b = operands("deepseek-fp8", 1.0)
    problem = Gemm(m=M, n=N, k=K, recipe=recipe("deepseek-fp8"), out="fp32")
    reference = gemm_reference(a, b, gemm_arithmetic(problem, decode=False))
    a[:, 256:384] *= 2
    assert not compare((a @ b.T).to(torch.float32), reference).ok


def test_sums_of_one_sign_may_not_lose_more_than_truncation_takes() -> None:
    a, b = operands("e4m3-row", 1.0)
    problem = Gemm(m=M, n=N, k=K, recipe=recipe("e4m3-row"), out="fp32")
    reference = gemm_reference(a, b, gemm_arithmetic(problem, decode=False))
    assert float((reference.tile_rms_limit / reference.exact.abs().mean()).amax()) < 0.7
    half = a[:, : K // 4] @ b[:, : K // 4].T
    assert not compare(half.to(torch.float32), reference).ok
    # Decoded to fp16 the sums keep 24 bits: a loss of a thousandth is then a fault.
    strict = gemm_reference(a, b, gemm_arithmetic(problem, decode=True))
    assert not compare((strict.exact * 0.999).to(torch.float32), strict).ok


def test_one_sign_is_no_reason_for_zero_operands_to_lose_their_bound() -> None:
    problem = Gemm(m=16, n=16, k=64, recipe=recipe("e4m3-row"), out="fp32")
    zeros = torch.zeros(16, 64, dtype=torch.float64)
    reference = gemm_reference(zeros, zeros, gemm_arithmetic(problem, decode=False))
    assert compare(torch.zeros(16, 16), reference).ok
    assert not compare(torch.full((16, 16), 1e-30), reference).ok
