"""The reference's own fp64 rounding is part of the bound."""

import torch

from tiles.kernels.accuracy import compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.problems import Gemm
from tiles.recipes import recipe


def test_an_exact_integer_sum_that_cancels_is_not_blamed_for_the_references_rounding() -> None:
    problem = Gemm(m=16, n=16, k=512, recipe=recipe("int8-tensor"))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (16, 512), generator=generator).to(torch.float64)
    weights = torch.randint(-127, 128, (16, 512), generator=generator).to(torch.float64)
    # Make every product cancel exactly: the second half of K repeats the first with B negated.
    codes[:, 256:] = codes[:, :256]
    weights[:, 256:] = -weights[:, :256]
    scale = float(torch.tensor(0.0123, dtype=torch.float32))
    weight_scale = float(torch.tensor(0.0456, dtype=torch.float32))
    reference = gemm_reference(
        codes * scale, weights * weight_scale, gemm_arithmetic(problem, decode=False)
    )
    zeros = torch.zeros(16, 16, dtype=torch.bfloat16)
    assert compare(zeros, reference).ok
    assert not compare(zeros + 1e-6, reference).ok
