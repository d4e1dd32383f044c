"""The Hopper GEMM whose accumulators run on over units, its own text, run on the CPU."""

import hopper_blocks_host
import numpy as np
import pytest
import torch
from test_hopper_blocks_arithmetic import F32, quantized, running

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.accuracy_of_runs import scales_that_count


def fields(**changed: int) -> dict[str, int]:
    """Of a small ring, in tiles of 128 x 64."""
    plain = {"block_m": 128, "block_n": 64, "stages": 3, "cluster": 1, "group_m": 1}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 2, "spread": 0, "run": 4}
    return plain | changed


def counted(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The grid of scales, 0 for blocks of zeros whose scale is 1."""
    rows = scales_that_count(torch.from_numpy(codes), torch.from_numpy(scales), 32)
    return rows[::32].numpy().astype(F32)


@pytest.mark.slow
def test_the_kernel_itself_sums_as_its_emulation_does() -> None:
    """Two tiles of a CTA, a ring that just suffices, loads that land when they like."""
    rng = np.random.default_rng(4)
    m, n, k = 72, 80, 560  # five stages, a body of two
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    a *= F32(1e-8)
    a[:, 64:128], a[:64, 256:512], b[32:64, 96:256] = 0, 0, 0  # their scales are 1
    (a_codes, a_scale), (b_codes, b_scale) = (quantized(x, "int8.b32x32") for x in (a, b))
    found = hopper_blocks_host.run(
        (a_codes, b_codes), (a_scale, b_scale), scales="b32x32", config=fields(), ctas=1, seed=3
    )
    a_grid, b_grid = counted(a_codes, a_scale), counted(b_codes, b_scale)
    assert (a_grid == 0).any()
    assert (b_grid == 0).any()
    wanted = running((a_codes, b_codes), (a_grid, b_grid), 32, 2, 4)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", ["of zeros", "of scale 1"])
def test_late_loads_do_not_change_which_blocks_are_zero(blocks: str) -> None:
    """The warp that looks is as far ahead as the ring allows, where other codes lay before."""
    rng = np.random.default_rng(1)
    m, n, k = 40, 48, 9 * 128
    shapes = ((m, k), (n, k))
    if blocks == "of zeros":
        a, b = (rng.standard_normal(shape).astype(F32) * F32(1e-3) for shape in shapes)
        a[:, 512:576], a[:32, 768:], b[32:, 672:896] = 0, 0, 0
        (a_codes, a_scale), (b_codes, b_scale) = (quantized(x, "int8.b32x32") for x in (a, b))
    else:
        a_codes, b_codes = (rng.integers(-127, 128, s).astype(np.int8) for s in shapes)
        a_scale, b_scale = (np.full((2, k // 32), s, F32) for s in (1, 1.5))
        a_codes[:, :512], a_scale[:, :16] = 0, 0.5
    found = hopper_blocks_host.run(
        (a_codes, b_codes),
        (a_scale, b_scale),
        scales="b32x32",
        config=fields(),
        ctas=1,
        seed=1,
        landing=1024,
    )
    grids = counted(a_codes, a_scale), counted(b_codes, b_scale)
    wanted = running((a_codes, b_codes), grids, 32, 2, 4)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "n"),
    [
        ("int8.b128x128", 208),
        ("int8.b128x128+sr", 208),
        ("int8.b64x64", 208),
        ("int8.b32x32+sr", 208),
        ("int8.b32x32+sr", 212),  # rows begin in the middle of a counter's eight elements
    ],
)
def test_codes_of_a_block_that_two_consumers_share_are_the_codecs(out: str, n: int) -> None:
    """Six tiles of a CTA, ragged: one consumer is a tile ahead of the other when it likes."""
    rng = np.random.default_rng(7)
    # Fewer steps than stages: else the ring keeps consumers together.
    m, k, key = 300, 128, 0x9E3779B97F4A7C15
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    a[:128] *= F32(30)  # scales of neighbours differ, whichever consumer holds the largest
    a[70:128] *= F32(8)
    a[128:192] *= F32(5)
    b[128:] *= F32(0.01)
    (a_codes, a_scale), (b_codes, b_scale) = (quantized(x, "int8.b32x32") for x in (a, b))
    given = ((a_codes, b_codes), (a_scale, b_scale))
    config = fields(block_n=128, group_m=2)
    sums = hopper_blocks_host.run(*given, scales="b32x32", config=config, ctas=1, seed=3)
    assert isinstance(sums, np.ndarray)
    for seed in range(4):
        found = hopper_blocks_host.run(
            *given, scales="b32x32", config=config, ctas=1, seed=seed, out=out, key=key, stalls=3000
        )
        assert isinstance(found, tuple)
        wanted = quantize_tensor(torch.from_numpy(sums.copy()), TensorFormat.parse(out), seed=key)
        assert wanted.scales is not None
        np.testing.assert_array_equal(found[0], wanted.scales.numpy())
        np.testing.assert_array_equal(found[1], wanted.codes.numpy())
