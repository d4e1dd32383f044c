"""The Hopper GEMM with scales in blocks, emulated in NumPy: its indices and its arithmetic.

Where a thread's accumulators lie is wgmma's (PTX ISA, m64nNk32 D fragments); the rest repeats what
``gemm_hopper_blocks.cu`` and ``hopper_block_quantizer.cuh`` compute, expression by expression.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tiles.formats import TensorFormat
from tiles.formats.rounding import philox, random_bits
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.accuracy import Reference, compare, gemm_arithmetic, gemm_reference
from tiles.kernels.accuracy_of_runs import allow_runs, scales_that_count
from tiles.kernels.cuda.gemm_hopper_blocks import SCALES
from tiles.kernels.cuda.philox_keys import round_keys
from tiles.problems import Gemm
from tiles.recipes import recipe

F32 = np.float32
#: Recipes, sets of accumulators and units that they run on over.
RUNS = (
    *(("jetfire", sets, run) for sets in (1, 2) for run in (4, 8)),
    *(("jetfire-64", sets, 4) for sets in (1, 2)),
)


# ---- Where things lie.


def fragment(block_n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of accumulator i of thread t: (128, block_n / 2) each."""
    thread, i = np.meshgrid(np.arange(128), np.arange(block_n // 2), indexing="ij")
    lane, warp = thread % 32, thread // 32
    row = warp * 16 + lane // 4 + 8 * (i // 2 % 2)
    column = 8 * (i // 4) + lane % 4 * 2 + i % 2
    return row, column


@pytest.mark.parametrize("block_n", [64, 128])
def test_fragments_cover_the_tile_once(block_n: int) -> None:
    row, column = fragment(block_n)
    seen = np.zeros((64, block_n), int)
    np.add.at(seen, (row, column), 1)
    assert (seen == 1).all()


#: Tiles, consumers and parts of a unit's product; and scales, as the launcher takes them together.
GEOMETRIES = ((128, 64, 2), (128, 128, 2), (256, 64, 2), (128, 128, 4), (256, 64, 4))
SHARED = [
    (scales, *geometry, parts)
    for scales, (rows, quant_k) in SCALES.items()
    for geometry in GEOMETRIES
    for parts in (1, 2)
    if (geometry[0] == 128 or rows == 1) and (quant_k < 128 or (geometry[2], parts) == (2, 1))
]


@pytest.mark.parametrize(("scales", "block_m", "block_n", "consumers", "parts"), SHARED)
def test_every_product_gets_the_scales_of_its_block(
    scales: str, block_m: int, block_n: int, consumers: int, parts: int
) -> None:
    """And every element of the tile one sum, of the operands' rows that belong to it."""
    rows, quant_k = SCALES[scales]
    units, top, left, step = 128 // quant_k, 512, 384, 3
    a_grid = np.arange(10**5).reshape(-1, 50)  # scales, told apart by their values
    b_grid = -np.arange(10**5).reshape(-1, 50)
    thread = np.arange(128)
    lane, warp = thread % 32, thread // 32
    if rows == 1:
        # The copy engine's boxes: units of columns of the transposed grids.
        a_part = a_grid.T[step * units :][:units, top : top + block_m]
        b_part = b_grid.T[step * units :][:units, left : left + block_n]
        stage = np.concatenate([a_part.ravel(), b_part.ravel()])
    else:
        a_scales, b_scales = max(block_m // rows, 1), max(block_n // rows, 1)
        stage = np.zeros(units * (a_scales + b_scales), int)
        for i in range(len(stage)):
            if i < units * b_scales:
                unit, at, grid = i // b_scales, left // rows + i % b_scales, b_grid
            else:
                j = i - units * b_scales
                unit, at, grid = j % units, top // rows + j // units, a_grid
            stage[i] = grid[at, step * units + unit]
    # The macros of the kernel, by their names.
    consumers_m = min(block_m // 64, consumers)
    consumers_n = consumers // consumers_m
    consumer_rows, columns = block_m // consumers_m, block_n // consumers_n
    tiles_m, sums = consumer_rows // 64, columns // 2
    piece_tiles = max(tiles_m // parts, 1)
    pieces_n = parts * piece_tiles // tiles_m
    wgmma_n = columns // pieces_n
    half = wgmma_n // 2
    own_scales = max(columns // rows, 1)
    row, column = fragment(columns)  # of a sum
    piece_row, piece_column = fragment(wgmma_n)
    seen = np.zeros((units, block_m, block_n), int)
    for consumer in range(consumers):
        offset, aside = consumer // consumers_n * consumer_rows, consumer % consumers_n * columns
        for piece in range(units * parts):
            unit, across = piece // parts, piece % pieces_n
            down = piece % parts // pieces_n * piece_tiles
            for t in range(piece_tiles):
                # What issue() multiplies: rows of A and B in their tiles of 128 bytes a row.
                a_rows = offset + (down + t) * 64 + piece_row
                b_rows = aside + across * wgmma_n + piece_column
                for i in range(half):
                    at = across * half + i
                    assert at < sums
                    y, x = offset + (down + t) * 64 + row[:, at], aside + column[:, at]
                    assert (a_rows[:, i] == y).all()
                    assert (b_rows[:, i] == x).all()
                    np.add.at(seen, (unit, y, x), 1)
                    if rows == 1:
                        first_row, g = offset + warp * 16 + lane // 4, i // 4
                        in_unit = (down + t) * 64 + i // 2 % 2 * 8
                        a = stage[first_row + unit * block_m + in_unit]
                        first_column = units * block_m + aside + lane % 4 * 2
                        in_unit = across * wgmma_n + g * 8 + i % 2
                        b = stage[first_column + unit * block_n + in_unit]
                    else:
                        first_row, j = offset + warp * 16 + (down + t) * 64, at // 4 * 8 // rows
                        assert j < own_scales
                        a = stage[(b_scales + first_row // rows) * units + unit]
                        b = stage[aside // rows + unit * b_scales + j] + 0 * lane
                        # Loads of several scales start at a multiple of their size.
                        assert (aside // rows + unit * b_scales) % own_scales == 0
                    k = step * units + unit
                    assert (a == a_grid[(top + y) // rows, k]).all()
                    assert (b == b_grid[(left + x) // rows, k]).all()
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("units", "sets", "parts"),
    [(1, 2, 1), (2, 2, 1), (2, 1, 2), (2, 2, 2), (4, 2, 1), (4, 1, 2), (4, 2, 2)],
)
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_pieces_are_promoted_once_in_order_and_never_while_in_flight(
    units: int, sets: int, parts: int, steps: int
) -> None:
    """The consumer's loop: rings of accumulators, stages that arrive and are given back."""
    pieces, ring = units * parts, sets * parts
    ahead = min(ring - 1, pieces)
    carried = ahead - 1 if ahead > 1 else ahead
    body = pieces if pieces % ring == 0 else 2 * pieces
    held: list[tuple[int, int] | None] = [None] * ring  # stage and piece, of every set
    flying: list[int] = []  # sets, oldest first
    promoted: list[tuple[int, int]] = []
    arrived, released, step = 0, 0, 0

    def start(slot: int, piece: int) -> None:
        assert slot not in flying
        assert released < arrived <= released + 2, "two stages are enough"
        assert held[slot] is None or held[slot] in promoted
        held[slot] = (arrived - 1, piece)
        flying.append(slot)

    def wait(pending: int) -> None:
        while len(flying) > pending:
            flying.pop(0)

    def work(first: int, piece: int) -> None:
        nonlocal arrived, released
        at, more = first + piece, step < steps - 1
        if at == 0 and ahead > 1:
            wait(0)
            start(carried, carried)
        if piece + ahead == pieces and more:
            arrived += 1
        if at > 0 or ahead == 1:
            wait(ahead - 1)
        if at < body - 1 or ahead == 1:
            start((at + ahead) % ring, (piece + ahead) % pieces)
        assert at % ring not in flying
        found = held[at % ring]
        assert found is not None
        promoted.append(found)
        if piece == pieces - 1 and more:
            released += 1
            assert all(held[slot][0] >= released for slot in flying)  # type: ignore[index]

    arrived += 1
    for piece in range(carried):
        start(piece, piece)
    while step < steps:
        for first in range(0, body, pieces):
            for piece in range(pieces):
                work(first, piece)
            step += 1
            if step == steps:
                break
    assert promoted == [(s, p) for s in range(steps) for p in range(pieces)]
    assert arrived == released + 1 == steps


@pytest.mark.parametrize("block_n", [64, 128])
def test_codes_reach_their_place_in_the_staging_buffer(block_n: int) -> None:
    """And with the 128-byte swizzle, as the copy engine reads it."""
    row, column = fragment(block_n)
    written = np.full(64 * block_n, -1)
    for i in range(0, block_n // 2, 2):
        r, byte = row[:, i], column[:, i]
        piece = (byte // 16) ^ (r % 8) if block_n == 128 else byte // 16
        to = r * block_n + piece * 16 + byte % 16
        written[to], written[to + 1] = r * block_n + byte, r * block_n + byte + 1
    buffer = written.reshape(64, block_n // 16, 16)
    tile = np.arange(64 * block_n).reshape(64, block_n // 16, 16)
    for r in range(64):
        for piece in range(block_n // 16):
            at = piece ^ r % 8 if block_n == 128 else piece
            assert (buffer[r, at] == tile[r, piece]).all()


@pytest.mark.parametrize("n", [4096, 4100])
def test_two_lanes_share_the_random_words_of_four_neighbours(n: int) -> None:
    seed, x, y = 0x0123456789ABCDEF, 256, 640
    row, column = fragment(128)
    flat = (y + row) * n + x + column
    words = random_bits(int(flat.min()), int(flat.max() - flat.min()) + 1, seed)
    lane = np.arange(128) % 32
    warp = np.arange(128) // 32
    for block in range(4):  # of 32 columns
        for g in range(4):
            columns = block * 32 + g * 8
            odd = lane & 1
            own_row = y + warp * 16 + lane // 4 + 8 * odd
            index = own_row * n + (x + columns + lane % 4 // 2 * 4)
            assert (index % 4 == 0).all()
            eight = philox((index >> 3).astype(np.uint64), seed)
            word0, word1 = (np.where(index & 4, eight[:, w + 2], eight[:, w]) for w in (0, 1))
            other = np.where(odd, word0, word1)[np.arange(128) ^ 1]
            drawn = np.where(odd, other, word0), np.where(odd, word1, other)
            for h, pair in enumerate(drawn):
                for e, random in enumerate((pair << 16, pair & 0xFFFF0000)):
                    i = (columns // 8) * 4 + h * 2 + e
                    assert (random == words[flat[:, i] - flat.min()]).all()


def test_round_keys_are_philox_own() -> None:
    """Ten rounds with them give the reference's words."""
    seed = 2**64 - 3
    keys = round_keys(seed).tolist()
    a, b, c, d = 0x89ABCDEF, 0x01234567, 0, 0
    for r in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (
            (second >> 32) ^ b ^ keys[2 * r],
            second & 0xFFFFFFFF,
            (first >> 32) ^ d ^ keys[2 * r + 1],
            first & 0xFFFFFFFF,
        )
    counter = np.array([0x0123456789ABCDEF], np.uint64)
    assert philox(counter, seed)[0].tolist() == [a, b, c, d]


# ---- Arithmetic.


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


@pytest.mark.parametrize("name", ["jetfire", "jetfire-64"])
@pytest.mark.parametrize("data", ["normal", "zero blocks", "outlier", "one sign"])
def test_sums_stay_within_the_bound(name: str, data: str) -> None:
    quant = {"jetfire": 32, "jetfire-64": 64}[name]
    rng = np.random.default_rng(3)
    m, n, k = 96, 64, 1024
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    if data == "zero blocks":
        a *= F32(1e-8)
        a[:, 64:128], a[:64, 256:512] = 0, 0  # their scales are 1
    elif data == "outlier":
        a[7, 99], b[11, 99] = 1e4, -3e4
    elif data == "one sign":
        a, b = abs(a), abs(b)
    (a_codes, a_scale), (b_codes, b_scale) = (
        quantized(x, f"int8.b{quant}x{quant}") for x in (a, b)
    )
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
    rng = np.random.default_rng(4)
    m, n, k = 96, 144, 720  # two tiles, and more stages than a loop's body has
    a, b = rng.standard_normal((m, k)).astype(F32), rng.standard_normal((n, k)).astype(F32)
    if data == "zero blocks":
        a *= F32(1e-8)
        a[:, 64:128], a[:64, 256:512] = 0, 0  # their scales are 1
    elif data == "outlier":
        a[7, 99], b[11, 99] = 1e4, -3e4
    elif data == "one sign":
        a, b = abs(a), abs(b)
    (a_codes, a_scale), (b_codes, b_scale) = (
        quantized(x, f"int8.b{quant}x{quant}") for x in (a, b)
    )
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
    """``stochastic_code`` of the quantizer, the low byte."""
    size = np.minimum(np.abs(ratio), F32(127))
    whole = np.floor(size)
    shifted = (whole + F32(8388608)).astype(F32)  # rounded down, as __fadd_rz does
    rest = ((size - whole).astype(np.float64) * 2.0**32).astype(np.uint64).astype(np.uint32)
    with np.errstate(over="ignore"):
        carry = (rest + random < rest).astype(np.uint32)
        code = shifted.view(np.uint32) + carry
        sign = (ratio.view(np.int32) >> 31).astype(np.uint32)
        return ((code ^ sign) - sign).astype(np.uint8).view(np.int8)


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
