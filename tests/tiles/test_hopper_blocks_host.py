"""The Hopper GEMM whose accumulators run on over units, its own text, run on the CPU."""

import hopper_blocks_host
import numpy as np
import pytest
import torch
from test_hopper_blocks_emulated import F32, quantized, running

from tiles.kernels.accuracy_of_runs import scales_that_count


@pytest.mark.slow
def test_the_kernel_itself_sums_as_its_emulation_does() -> None:
    """Two tiles of a CTA, a ring that just suffices, loads that land when they like."""
    rng = np.random.default_rng(4)
    m, n, k = 72, 80, 560  # five stages, a body of two
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    a *= F32(1e-8)
    a[:, 64:128], a[:64, 256:512], b[32:64, 96:256] = 0, 0, 0  # their scales are 1
    (a_codes, a_scale), (b_codes, b_scale) = (quantized(x, "int8.b32x32") for x in (a, b))
    fields = {"block_m": 128, "block_n": 64, "stages": 3, "cluster": 1, "group_m": 1}
    fields |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 2, "spread": 0, "run": 4}
    found = hopper_blocks_host.run(
        (a_codes, b_codes), (a_scale, b_scale), scales="b32x32", config=fields, ctas=1, seed=3
    )
    a_grid, b_grid = (
        scales_that_count(torch.from_numpy(c), torch.from_numpy(s), 32)[::32].numpy().astype(F32)
        for c, s in ((a_codes, a_scale), (b_codes, b_scale))
    )
    assert (a_grid == 0).any()
    assert (b_grid == 0).any()
    wanted = running((a_codes, b_codes), (a_grid, b_grid), 32, 2, 4)
    np.testing.assert_array_equal(found, wanted)
