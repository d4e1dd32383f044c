"""MX operands aligned to 1x128: the twin against exact arithmetic, the kernel's text against it."""

import bisect
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tiles.formats import decode, element
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.accuracy import gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.cuda import align_mx_scales
from tiles.kernels.cuda.align_mx_scales import ERRORS
from tiles.kernels.mx_alignment import (
    _TOP,
    MOST_ROOM,
    MOST_SHIFT,
    align,
    aligned_reference,
    largest_errors,
)
from tiles.problems import Gemm, parse_problem

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
ELEMENTS = ("e4m3fn", "e5m2")
#: A code of the last exponent: its block counts with the scale that it has.
TOP = 0x78


def units(name: str) -> dict[int, int]:
    """Codes' magnitudes that are numbers, in units of the smallest of them."""
    values = decode(np.arange(128, dtype=np.uint8), element(name)).astype(np.float64)
    return {code: int(x / values[1]) for code, x in enumerate(values) if np.isfinite(x)}


@pytest.mark.parametrize("name", ELEMENTS)
def test_every_code_is_rounded_once_for_every_difference_of_scales(name: str) -> None:
    codes, sizes = np.arange(256, dtype=np.uint8), units(name)
    places, order = sorted(sizes.values()), sorted(sizes, key=sizes.__getitem__)
    for shift in range(MOST_SHIFT + 3):
        row = np.zeros((8, 128), np.uint8)
        row[:, :32], row[:, 64] = codes.reshape(8, 32), TOP
        exponents = np.tile(np.array([[100, 0, 100 + shift, 0]], np.uint8), (8, 1))
        found, scale = align(row, exponents, name)
        assert (scale == 2.0 ** (100 + shift - 127)).all()
        for code, got in zip(codes.tolist(), found[:, :32].reshape(-1).tolist(), strict=True):
            if code & 0x7F not in sizes:
                assert got == code
                continue
            exact = sizes[code & 0x7F]  # in units of 2^-shift
            at = bisect.bisect_right(places, exact >> shift) - 1
            near = order[max(at - 1, 0) : at + 3]
            wanted = min(near, key=lambda c: (abs((sizes[c] << shift) - exact), c % 2))
            assert got == wanted | code & 0x80, (shift, code)
            assert 2 * abs((sizes[wanted] << shift) - exact) <= 1 << shift


@pytest.mark.parametrize("name", ELEMENTS)
def test_the_bound_is_reached(name: str) -> None:
    codes = np.arange(128, dtype=np.uint8)
    values = decode(codes, element(name)).astype(np.float64)
    worst = 0.0
    for shift in range(1, MOST_SHIFT):
        row = np.zeros((4, 128), np.uint8)
        row[:, :32], row[:, 64] = codes.reshape(4, 32), TOP
        found, _ = align(row, np.tile(np.array([[0, 0, shift, 0]], np.uint8), (4, 1)), name)
        exact, numbers = np.ldexp(values, -shift), np.isfinite(values)
        after = decode(found[:, :32].reshape(-1), element(name))
        worst = max(worst, float(np.abs(after[numbers] - exact[numbers]).max()))
    assert worst == ERRORS[name]


def test_blocks_of_zeros_do_not_count() -> None:
    row = np.zeros((3, 128), np.uint8)
    row[0, 0], row[1, 40] = TOP, 0x80 | TOP
    row[0, 64] = 0x80  # -0 is zero
    exponents = np.array([[100, 90, 200, 254]] * 3, np.uint8)
    found, scales = align(row, exponents, "e4m3fn")
    assert (found == row).all()
    assert scales[:, 0].tolist() == [2.0**-27, 2.0**-37, 2.0**-127]


@pytest.mark.parametrize("name", ELEMENTS)
def test_a_scale_larger_than_its_codes_need_does_not_cost_the_others(name: str) -> None:
    """One block holds one code alone under a large scale, another one every number."""
    fmt = element(name)
    codes = np.arange(256, dtype=np.uint8)
    values = decode(codes, fmt).astype(np.float64)
    every = codes[np.isfinite(values) & ((codes & 0x7F) != 0)]
    for code in every.tolist():
        row = np.zeros((8, 128), np.uint8)
        row[:, 0], row[:, 32:64] = code, codes.reshape(8, 32)
        exponents = np.tile(np.array([[100, 80, 0, 0]], np.uint8), (8, 1))
        found, scales = align(row, exponents, name)
        # The code itself is exact, and stands among the last exponents or has moved by the most.
        exact = values[code] * 2.0 ** (100 - 127)
        assert (decode(found[:, 0], fmt) * scales[:, 0].astype(np.float64) == exact).all()
        moved_up = 100 - 127 - np.log2(scales[:, 0].astype(np.float64))
        own = (moved_up == MOST_ROOM) | (
            np.abs(decode(found[:, 0], fmt)) >= 2.0 ** (_TOP[name][0] - 1)
        )
        others = scales[:, 0] == 2.0 ** (80 - 127)  # a larger value under the smaller scale
        assert (own | others).all()
        # The others are off by at most 2^-17 (2^-31) of the largest, by 2^-15 where a code could
        # not move as far as it would.
        numbers = np.isfinite(values).reshape(8, 32)
        before = np.where(numbers, values.reshape(8, 32), 0.0) * 2.0 ** (80 - 127)
        after = np.where(numbers, decode(np.where(numbers, found[:, 32:64], 0), fmt), 0.0)
        after = after * scales[:, :1].astype(np.float64)
        largest = np.maximum(np.abs(before).max(axis=1, keepdims=True), abs(exact))
        near = 2.0**-17 if name == "e4m3fn" else 2.0**-31
        far = np.where(moved_up == MOST_ROOM, 2.0**-15, near)[:, None]
        assert (np.abs(after - before) <= far * largest).all(), code


def test_a_nan_scale_makes_the_scale_nan_even_over_zeros() -> None:
    row = np.zeros((2, 256), np.uint8)
    row[0, 0] = TOP
    exponents = np.array([[100, 255, 90, 90, 100, 100, 100, 100]] * 2, np.uint8)
    _, scales = align(row, exponents, "e4m3fn")
    assert np.isnan(scales[:, 0]).all()
    assert np.isfinite(scales[:, 1]).all()


def nasty(rows: int, k: int, name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every code, blocks of zeros, half a block of zeros, all exponents, NaN ones among them."""
    rng = np.random.default_rng(seed)
    blocks = -(-k // 32)
    codes = rng.integers(0, 256, (rows, k)).astype(np.uint8)
    kind = rng.integers(0, 8, (rows, blocks))
    for block in range(blocks):
        place = slice(32 * block, min(32 * block + 32, k))
        codes[kind[:, block] == 0, place] &= 0x80
        codes[kind[:, block] == 1, place.start : place.start + 16] = 0
        codes[kind[:, block] == 2, place] &= 0x83  # subnormal ones
        codes[kind[:, block] == 3, place] &= 0x9F  # small ones
    near = rng.integers(100, 110, (rows, blocks))
    exponents = np.where(rng.random((rows, blocks)) < 0.2, rng.integers(0, 256, near.shape), near)
    quiet = rng.random(rows) < 0.5  # no NaN among the scales of half the rows
    exponents[quiet] = np.minimum(exponents[quiet], 254)
    return codes, exponents.astype(np.uint8)


def without_sign_of_nan(codes: np.ndarray, name: str) -> np.ndarray:
    """The instruction that makes codes of e4m3fn has one NaN."""
    return np.where((codes & 0x7F) == 0x7F, 0x7F, codes) if name == "e4m3fn" else codes


@NEEDS_COMPILER
@pytest.mark.parametrize("name", ELEMENTS)
def test_the_text_shifts_every_code_as_the_twin_does(name: str) -> None:
    from align_on_host import library

    made = library(name)
    codes = np.arange(256, dtype=np.uint8)
    for shift in (*range(1, MOST_SHIFT + 2), 254):
        words = codes.view(np.uint32)
        got = np.array([made.shifted_word(int(w), shift) for w in words], np.uint32).view(np.uint8)
        row = np.zeros((8, 128), np.uint8)
        row[:, :32], row[:, 64] = codes.reshape(8, 32), TOP
        exponents = np.tile(np.array([[0, 0, shift, 0]], np.uint8), (8, 1))
        wanted = align(row, exponents, name)[0][:, :32].reshape(-1)
        same = without_sign_of_nan(got, name) == without_sign_of_nan(wanted, name)
        assert same.all(), (shift, np.flatnonzero(~same))


@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("m", "n", "k", "name"), [(33, 5, 656, "e4m3fn"), (1, 40, 48, "e4m3fn"), (35, 32, 1024, "e5m2")]
)
def test_the_text_run_on_a_cpu_gives_the_twins_bytes(m: int, n: int, k: int, name: str) -> None:
    from align_on_host import align as run

    operands = [nasty(rows, k, name, rows + k) for rows in (m, n)]
    for (codes, scales), given in zip(run(operands, name), operands, strict=True):
        wanted, wanted_scales = align(*given, name)
        assert (without_sign_of_nan(codes, name) == without_sign_of_nan(wanted, name)).all()
        np.testing.assert_array_equal(scales, wanted_scales)


def test_errors_of_the_check_hold_what_the_alignment_does() -> None:
    codes, exponents = nasty(64, 272, "e4m3fn", 3)
    exponents = np.minimum(exponents, 140)
    codes[(codes & 0x7F) == 0x7F] = 1
    found, scales = align(codes, exponents, "e4m3fn")
    fmt = element("e4m3fn")
    powers = np.ldexp(1.0, exponents.astype(np.int64) - 127)
    before = decode(codes, fmt) * powers.repeat(32, axis=1)[:, :272]
    after = decode(found, fmt) * scales.astype(np.float64).repeat(128, axis=1)[:, :272]
    allowed = largest_errors(
        torch.from_numpy(decode(codes, fmt)), torch.from_numpy(powers), "e4m3fn"
    ).numpy()
    assert (np.abs(after - before) <= allowed).all()
    assert (allowed == 0).any()
    assert (np.abs(after - before)[allowed > 0] > 0.9 * allowed[allowed > 0]).any()


def test_what_the_check_allows_for_it_is_little_beside_the_tensor_cores() -> None:
    problem = parse_problem("gemm:128x128x1040:mxfp8-e4m3:fp32")
    assert isinstance(problem, Gemm)
    generator = torch.Generator().manual_seed(0)
    sides = [
        quantize_tensor(torch.randn(128, problem.k, generator=generator), fmt)
        for fmt in (problem.recipe.activation, problem.recipe.weight)
    ]
    allowed = aligned_reference(problem, sides[0], sides[1])
    arithmetic = replace(gemm_arithmetic(problem, decode=False), promote_k=128)
    a, b = (side.dequantize(torch.float64) for side in sides)
    plain = gemm_reference(a, b, arithmetic)
    share = allowed.bound / plain.bound - 1
    assert 0 < float(share.mean()) < 0.01
    assert float((allowed.tile_rms_limit / plain.tile_rms_limit).max()) < 1.001
    # And it holds what the alignment does to this product.
    values = []
    for side, fmt in zip(sides, ("e4m3fn", "e4m3fn"), strict=True):
        codes, scales = align(side.bits.numpy(), side.scale_bits.numpy(), fmt)
        wide = scales.astype(np.float64).repeat(128, axis=1)[:, : problem.k]
        values.append(torch.from_numpy(decode(codes, element(fmt)) * wide))
    moved = (values[0] @ values[1].T - plain.exact).abs()
    assert float(moved.max()) > 0
    assert (moved <= (allowed.bound - plain.bound) * (1 + 1e-3) + 1e-9).all()


def test_refuses_other_elements() -> None:
    with pytest.raises(ValueError, match="choose one of e4m3fn, e5m2"):
        align_mx_scales.options("int8")
    with pytest.raises(ValueError, match="16 bytes at a time"):
        align_mx_scales.launch(0, [], 40, element="e4m3fn")
