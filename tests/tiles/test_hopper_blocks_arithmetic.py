"""The Hopper GEMM with scales in blocks, emulated in NumPy: its arithmetic.

It repeats what ``gemm_hopper_blocks.cu`` and ``hopper_block_quantizer.cuh`` compute, expression by
expression.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tiles.formats import TensorFormat
from tiles.formats.rounding import random_bits
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.accuracy import Reference, compare, gemm_reference
from tiles.kernels.accuracy_of_runs import allow_runs, scales_that_count
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.problems import Gemm
from tiles.recipes import recipe

F32 = np.float32
#: Recipes, sets of accumulators and units that they run on over.
RUNS = (
    *(("jetfire", sets, run) for sets in (1, 2) for run in (4, 8)),
    *(("jetfire-64", sets, 4) for sets in (1, 2)),
)


def fma(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """fp32 multiply-add.  Products are exact in fp64, whose own rounding of the sum is harmless
    but where it lands on the middle of two floats."""
    return (x.astype(np.float64) * y.astype(np.float64) + z.astype(np.float64)).astype(F32)


def promoted(
    codes: tuple[np.ndarray, np.ndarray], scales: tuple[np.ndarray, np.ndarray], quant: int
) -> np.ndarray:
    """The kernel's fp32 product of int8 codes under quant x quant blocks."""
    (a, b), (a_scale, b_scale) = codes, scales
    total = np.zeros((len(a), len(b)), F32)
    for unit in range(a.shape[1] // quant):
        part = slice(unit * quant, (unit + 1) * quant)
        product = (a[:, part].astype(np.int64) @ b[:, part].astype(np.int64).T).astype(F32)
        factor = np.outer(a_scale[:, unit], b_scale[:, unit])  # one fp32 rounding
        factor = np.repeat(np.repeat(factor, quant, 0), quant, 1)[: len(a), : len(b)]
        total = fma(product, factor, total)
    return total


def biased(
    codes: tuple[np.ndarray, np.ndarray], scales: tuple[np.ndarray, np.ndarray], quant: int
) -> np.ndarray:
    """One multiply-add of sums that start at 1.5 x 2^23 instead, the bias taken off last."""
    (a, b), (a_scale, b_scale) = codes, scales
    total = np.zeros((len(a), len(b)), F32)
    bias = np.zeros_like(total)
    for unit in range(a.shape[1] // quant):
        part = slice(unit * quant, (unit + 1) * quant)
        product = (a[:, part].astype(np.int64) @ b[:, part].astype(np.int64).T) + 12582912
        factor = np.outer(a_scale[:, unit], b_scale[:, unit])
        factor = np.repeat(np.repeat(factor, quant, 0), quant, 1)[: len(a), : len(b)]
        total = fma(product.astype(F32), factor, total)
        bias = fma(np.full_like(factor, 12582912), factor, bias)
    return total - bias


def quantized(x: np.ndarray, fmt: str) -> tuple[np.ndarray, np.ndarray]:
    made = quantize_tensor(torch.from_numpy(x), TensorFormat.parse(fmt))
    assert made.scales is not None
    return made.codes.numpy(), made.scales.numpy()


def reference(problem: Gemm, a: np.ndarray, b: np.ndarray) -> tuple[Reference, np.ndarray]:
    found = gemm_reference(
        torch.from_numpy(a), torch.from_numpy(b), gemm_arithmetic(problem, decode=False)
    )
    return found, found.exact.numpy()


def spread(codes: np.ndarray, scales: np.ndarray, quant: int) -> np.ndarray:
    wide = np.repeat(np.repeat(scales.astype(np.float64), quant, 0), quant, 1)
    return codes * wide[: codes.shape[0], : codes.shape[1]]


def drawn(
    data: str, shape: tuple[int, int, int], quant: int, *, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes and scales of A (M, K) and B (N, K) of one kind of data, in square blocks."""
    rng = np.random.default_rng(seed)
    m, n, k = shape
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    if data == "zero blocks":
        a *= F32(1e-8)
        a[:, 64:128], a[:64, 256:512] = 0, 0  # their scales are 1
    elif data == "outlier":
        a[7, 99], b[11, 99] = 1e4, -3e4
    elif data == "one sign":
        a, b = abs(a), abs(b)
    return [quantized(x, f"int8.b{quant}x{quant}") for x in (a, b)]


@pytest.mark.parametrize("name", ["jetfire", "jetfire-64"])
@pytest.mark.parametrize("data", ["normal", "zero blocks", "outlier", "one sign"])
def test_sums_stay_within_the_bound(name: str, data: str) -> None:
    quant = {"jetfire": 32, "jetfire-64": 64}[name]
    m, n, k = 96, 64, 1024
    (a_codes, a_scale), (b_codes, b_scale) = drawn(data, (m, n, k), quant, seed=3)
    problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out="fp32")
    wanted, exact = reference(
        problem, spread(a_codes, a_scale, quant), spread(b_codes, b_scale, quant)
    )
    ours = promoted((a_codes, b_codes), (a_scale, b_scale), quant)
    assert compare(torch.from_numpy(ours), wanted).ok
    # The header's other arithmetic is worse everywhere and useless beside blocks of zeros.
    other = biased((a_codes, b_codes), (a_scale, b_scale), quant)
    ours_off, other_off = (np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in (ours, other))
    assert ours_off < 3e-7
    assert other_off > 100 * ours_off
    if data == "zero blocks":
        assert other_off > 0.1


class RunScales:
    """The warp that makes differences of scales, lane by lane, of a tile at (top, left)."""

    def __init__(self, grids: tuple[np.ndarray, np.ndarray], quant: int, sets: int, run: int):
        self.units = 128 // quant
        self.grids, self.sets = grids, sets
        self.a_scales = self.b_scales = 128 // quant
        self.group = self.units * self.b_scales
        self.body = run * sets // self.units
        self.lane = np.arange(32)

    def load(self, tile: tuple[int, int], step: int) -> np.ndarray:
        lane, of_a, units = self.lane, self.lane - self.group, self.units
        of_b = lane < self.group
        row = np.where(of_b, lane % self.b_scales, of_a // units)
        unit = step * units + np.where(of_b, lane // self.b_scales, of_a % units)
        scale = np.zeros(32, F32)
        for i in range(32):
            grid = self.grids[1] if of_b[i] else self.grids[0]
            at = row[i] + tile[int(of_b[i])] * self.a_scales
            if of_a[i] < self.a_scales * units and at < len(grid) and unit[i] < grid.shape[1]:
                scale[i] = grid[at, unit[i]]
        return scale

    def pair(self, scale: np.ndarray) -> np.ndarray:
        lane, group = self.lane, self.group
        of_a = group + lane // group * self.units + lane % group // self.b_scales
        b = scale[lane % group]
        own = max(self.a_scales * group // 32, 1)
        shifts = [e * (32 // group) * self.units for e in range(own)]
        return np.stack([scale[(of_a + shift) % 32] * b for shift in shifts])

    def tile(self, tile: tuple[int, int], steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every stage: differences [A, unit, B] and the first scales [A, B] of runs."""
        lane, group, across = self.lane, self.group, self.b_scales
        stages = []
        ahead = self.pair(self.load(tile, 0))
        for step in range(steps):
            now, more = ahead, step + 1 < steps
            if more:
                ahead = self.pair(self.load(tile, step + 1))
            memory = np.full(self.a_scales * (group + across), np.nan, F32)
            place = lane % group + self.sets * across
            other = lane // group * group + place % group
            ends = not more or (step + 1) % self.body == 0
            starts = self.a_scales * group + lane // group * across + lane % group
            for e, s in enumerate(now):
                following = np.where(place < group, s[other], 0 if ends else ahead[e][other])
                first = s + s[(lane + across) % 32] if self.sets == 2 else s
                for i in range(min(32, self.a_scales * group)):
                    memory[e * 32 + i] = s[i] - following[i]
                    if step % self.body == 0 and lane[i] % group < across:
                        memory[starts[i] + e * (32 // group) * across] = first[i]
            cut = self.a_scales * group
            differences = memory[:cut].reshape(self.a_scales, self.units, across)
            stages.append((differences, memory[cut:].reshape(self.a_scales, across)))
        return stages


def running(
    codes: tuple[np.ndarray, np.ndarray],
    grids: tuple[np.ndarray, np.ndarray],
    quant: int,
    sets: int,
    run: int,
) -> np.ndarray:
    """The kernel's fp32 product with accumulators that run on over ``run`` units of their set."""
    (a, b), units = codes, 128 // quant
    steps = -(-a.shape[1] // 128)
    pad = ((0, -len(a) % 128), (0, -a.shape[1] % 128)), ((0, -len(b) % 128), (0, -b.shape[1] % 128))
    # Products in fp64, which are exact and much faster than those of integers.
    a, b = (np.pad(x, p).astype(np.float64) for x, p in zip(codes, pad, strict=True))
    total = np.zeros((len(a), len(b)), F32)
    warp = RunScales(grids, quant, sets, run)
    for top in range(0, len(a), 128):
        for left in range(0, len(b), 128):
            part = np.zeros((128, 128), F32)
            held = [np.zeros((128, 128), np.int64)] * sets
            for step, (differences, firsts) in enumerate(
                warp.tile((top // 128, left // 128), steps)
            ):
                for unit in range(units):
                    at = step * units + unit
                    if at % (run * sets) < sets:
                        held[at % sets] = np.full((128, 128), 0x4B400000)
                    k = slice(at * quant, (at + 1) * quant)
                    product = a[top : top + 128, k] @ b[left : left + 128, k].T
                    held[at % sets] = held[at % sets] + product.astype(np.int64)
                    if at % (run * sets) == 0:
                        start = np.repeat(np.repeat(firsts, quant, 0), quant, 1)
                        part = fma(start, np.full_like(part, -12582912), part)
                    factor = np.repeat(np.repeat(differences[:, unit], quant, 0), quant, 1)
                    part = fma(held[at % sets].astype(np.int32).view(F32), factor, part)
            total[top : top + 128, left : left + 128] = part
    return total[: codes[0].shape[0], : codes[1].shape[0]]


@pytest.mark.parametrize(
    ("name", "sets", "run", "data"),
    [
        *((*case, "normal") for case in RUNS),
        *(
            (*case, data)
            for case in (("jetfire", 2, 8), ("jetfire-64", 1, 4))
            for data in ("zero blocks", "outlier", "one sign", "largest")
        ),
    ],
)
def test_sums_that_run_on_stay_within_their_bound(
    name: str, sets: int, run: int, data: str
) -> None:
    quant = {"jetfire": 32, "jetfire-64": 64}[name]
    m, n, k = 96, 144, 720  # two tiles, and more stages than a loop's body has
    (a_codes, a_scale), (b_codes, b_scale) = drawn(data, (m, n, k), quant, seed=4)
    if data == "largest":
        a_codes[:], b_codes[:] = -128, -128
        b_codes[::2] = 127
    problem = Gemm(m=m, n=n, k=k, recipe=recipe(name), out="fp32")
    wanted, exact = reference(
        problem, spread(a_codes, a_scale, quant), spread(b_codes, b_scale, quant)
    )
    counting = [
        scales_that_count(torch.from_numpy(c), torch.from_numpy(s), quant)
        for c, s in ((a_codes, a_scale), (b_codes, b_scale))
    ]
    allowed = allow_runs(wanted, counting[0], counting[1], 2.0**-23)
    grids = tuple(c[::quant].numpy().astype(F32) for c in counting)
    ours = running((a_codes, b_codes), (grids[0], grids[1]), quant, sets, run)
    found = compare(torch.from_numpy(ours), allowed)
    assert found.ok, found.reason
    if data == "normal":
        # The limits are no wish: they tell scales that belong to the next block along K.
        moved = (grids[0], np.roll(grids[1], 1, 1))
        wrong = running((a_codes, b_codes), moved, quant, sets, run)
        assert not compare(torch.from_numpy(wrong), allowed).ok
    if data != "outlier":
        assert np.linalg.norm(ours - exact) < 3e-4 * np.linalg.norm(exact)
    if data == "zero blocks":
        # Were their scales of 1 to count, nothing would be left of the product.
        lost = running((a_codes, b_codes), (a_scale, b_scale), quant, sets, run)
        assert np.linalg.norm(lost - exact) > 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize(("name", "sets", "run"), RUNS)
def test_runs_of_the_largest_codes_stay_in_a_floats_bits(name: str, sets: int, run: int) -> None:
    quant = {"jetfire": 32, "jetfire-64": 64}[name]
    for extreme in (run * quant * 128**2, -run * quant * 128 * 127):
        bits = np.array([0x4B400000 + extreme], np.int32)
        assert bits.view(F32)[0] == 12582912 + extreme


def test_products_of_codes_are_exact_as_floats() -> None:
    """The longest unit's, of codes as large as they get, MXINT8's -128 included."""
    for unit, code in ((128, 127), (32, 128)):
        assert unit * code**2 < 2**24


def test_factors_of_powers_of_two_are_exact() -> None:
    """E8M0 scales from 2^-127 on, and MXINT8's unit: nothing but the sum is rounded."""
    exponents = np.arange(-127, 128)
    for a in (-127, -60, 0, 60):
        kept = exponents[(exponents + a - 12 >= -149) & (exponents + a - 12 <= 127)]
        left = np.ldexp(F32(1), a - 12)
        factor = (left.astype(np.float64) * np.ldexp(1.0, kept)).astype(F32)
        assert [Fraction(float(f)) for f in factor] == [
            Fraction(2) ** int(e + a - 12) for e in kept
        ]


def nearest_code(ratio: np.ndarray) -> np.ndarray:
    """``nearest_code`` of the quantizer, the low byte."""
    clamped = np.minimum(np.maximum(ratio, F32(-127)), F32(127))
    return (clamped + F32(12582912)).view(np.uint32).astype(np.uint8).view(np.int8)


def stochastic_code(ratio: np.ndarray, random: np.ndarray) -> np.ndarray:
    """``stochastic_codes`` of the quantizer, one at a time; random halves above 16 zeros."""
    size = np.minimum(np.abs(ratio), F32(127))
    above = (0x43000000 | random >> 16).astype(np.uint32).view(F32)
    exact = size.astype(np.float64) + above  # 24 bits and 24 bits, of at most 2^8
    cut = (np.floor(exact * 2.0**16) / 2.0**16).astype(F32)  # as __fadd_rz does from 128 to 256
    code = (cut.view(np.uint32) >> 16 & 0xFF).astype(np.uint8).view(np.int8)
    return np.where(np.signbit(ratio), -code, code)


@pytest.mark.parametrize("data", ["normal", "zero", "tiny", "huge", "ties", "outlier"])
@pytest.mark.parametrize("rounding", ["", "+sr"])
def test_codes_are_those_of_the_codec(data: str, rounding: str) -> None:
    fmt = TensorFormat.parse(f"int8.b32x32{rounding}")
    rng = np.random.default_rng(5)
    x = rng.standard_normal((64, 96)).astype(F32)
    if data == "zero":
        x[:32] = 0
    elif data == "tiny":
        x *= F32(1e-38)
    elif data == "huge":
        x *= F32(5e37)
    elif data == "ties":
        x = (rng.integers(-254, 255, x.shape) / 2).astype(F32)
        x[::32, ::32] = 127
    elif data == "outlier":
        x[3, 5] = 1e9
    made = quantize_tensor(torch.from_numpy(x), fmt, seed=77)
    assert made.scales is not None
    scales = np.repeat(np.repeat(made.scales.numpy(), 32, 0), 32, 1)[:64, :96]
    ratio = (x / scales).astype(F32)
    if rounding:
        random = random_bits(0, x.size, 77).reshape(x.shape)
        codes = stochastic_code(ratio, random)
    else:
        codes = nearest_code(ratio)
    assert (codes == made.codes.numpy()).all()
