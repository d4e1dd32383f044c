"""The Hopper GEMM with scales in blocks, emulated in NumPy: where things lie.

Where a thread's accumulators lie is wgmma's (PTX ISA, m64nNk32 D fragments); the rest repeats what
``gemm_hopper_blocks.cu`` and ``hopper_block_quantizer.cuh`` compute, expression by expression.
"""

import numpy as np
import pytest

from tiles.formats.rounding import philox, random_bits
from tiles.kernels.cuda.hopper_block_operands import SCALES
from tiles.kernels.cuda.philox_keys import round_keys

F32 = np.float32


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


def exchanged(low: np.ndarray, high: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """``exchange`` of the quantizer, whole warps at once."""
    upper = (np.arange(low.size) & distance).astype(bool)
    other = np.where(upper, low, high)[np.arange(low.size) ^ distance]
    return np.where(upper, other, low), np.where(upper, high, other)


def test_four_lanes_share_the_random_words_of_two_groups_of_columns() -> None:
    seed, x, y, n = 0x0123456789ABCDEF, 256, 640, 4096
    row, column = fragment(128)
    flat = (y + row) * n + x + column
    words = random_bits(int(flat.min()), int(flat.max() - flat.min()) + 1, seed)
    lane = np.arange(128) % 32
    warp = np.arange(128) // 32
    for columns in range(0, 128, 16):
        own_row = y + warp * 16 + lane // 4 + 8 * (lane & 1)
        index = own_row * n + x + columns + 8 * (lane >> 1 & 1)
        assert (index % 8 == 0).all()
        w = list(philox((index >> 3).astype(np.uint64), seed).T)
        for low, high, distance in ((0, 1, 1), (2, 3, 1), (0, 2, 2), (1, 3, 2)):
            w[low], w[high] = exchanged(w[low], w[high], distance)
        for group in range(2):
            for h in range(2):
                pair = w[2 * group + h]
                for e, random in enumerate((pair << 16, pair & 0xFFFF0000)):
                    i = (columns // 8 + group) * 4 + h * 2 + e
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
