"""The CUDA C++ quantisation and transposition run on the CPU, right bit for bit."""

import shutil

import numpy as np
import pytest
import torch
from nasty_matrices import nasty
from quantize_on_host import drawn, transpose, wrong_quotients
from quantize_on_host import quantize as run

from tiles.formats import TensorFormat, philox, quantize
from tiles.kernels.cuda.philox_keys import narrow_keys, round_keys

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

SEED = 2**63 + 12345
WARP = {"threads": 64, "lanes": 32, "vector": 8, "unroll": 1}
#: Name: source, format, shape, transposed, configuration.
CASES = {
    "warp a block": ("bf16", "b32x32+sr", (70, 88), False, WARP),
    "turned": ("bf16", "b32x32+sr", (80, 88), True, WARP | {"threads": 128}),
    "turned, ragged": ("bf16", "b32x32", (70, 51), True, WARP | {"threads": 128}),
}
SLOW_CASES = {
    "even": ("bf16", "b32x32+sr", (64, 64), False, WARP | {"unroll": 2}),
    "turned, even": ("bf16", "b32x32+sr", (64, 128), True, WARP | {"threads": 128, "unroll": 2}),
    "turned by half warps": ("bf16", "b32x32+sr", (96, 64), True, WARP | {"lanes": 16}),
    "turned, wide": ("bf16", "b64x64", (80, 144), True, WARP | {"threads": 128, "lanes": 128}),
    "turned, fp32": ("fp32", "b64x64+sr", (80, 80), True, WARP | {"threads": 256, "lanes": 256,
                                                                 "vector": 4}),
    "turned, two warps deep": ("bf16", "b128x128", (160, 128), True, WARP | {"threads": 256,
                                                                            "lanes": 256}),
    "turned, 16 at once": ("bf16", "b32x32", (64, 64), True, WARP | {"lanes": 16, "vector": 16}),
    "turned, 16x16": ("bf16", "b16x16+sr", (48, 64), True, WARP | {"lanes": 8}),
    "rows of 128": ("fp32", "b1x128+sr", (9, 300), False, WARP | {"lanes": 4}),
    "rows of 128, four at once": ("fp32", "b1x128+sr", (9, 256), False, WARP | {"vector": 4}),
    "rows": ("bf16", "row+sr", (5, 104), False, WARP | {"lanes": 4}),
    "rows read twice": ("bf16", "row+sr", (3, 1048), False, WARP | {"lanes": 1}),
    "rows, one by one": ("fp32", "row+sr", (3, 77), False, WARP | {"vector": 1}),
    "odd blocks": ("bf16", "b3x5", (10, 23), False, WARP | {"vector": 1, "lanes": 4}),
    "wide odd blocks": ("bf16", "b6x40", (13, 80), False, WARP | {"lanes": 8}),
}  # fmt: skip
ALL = CASES | SLOW_CASES


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CASES)]
)
def test_equals_the_codec_bit_for_bit(case: str) -> None:
    source, text, shape, transposed, config = ALL[case]
    fmt = TensorFormat.parse(f"int8.{text}")
    scaling = fmt.scaling
    assert scaling is not None
    x = nasty(*shape, source)
    wanted = quantize(x.float().numpy(), fmt, seed=SEED)
    codes, scales = wanted.codes.view(np.int8), wanted.scales
    raw = x.view(torch.int16).numpy().view(np.uint16) if source == "bf16" else x.numpy()
    got = run(
        raw,
        source=source,
        block=(scaling.rows or 0, scaling.cols or 0),
        transposed=transposed,
        config=config,
        seed=SEED if text.endswith("+sr") else None,
    )
    np.testing.assert_array_equal(got["scales"], scales)
    np.testing.assert_array_equal(got["codes"], codes)
    if transposed:
        np.testing.assert_array_equal(got["scales_t"], scales.T)
        np.testing.assert_array_equal(got["codes_t"], codes.T)


@pytest.mark.parametrize(
    ("part", "block", "transposed", "config"),
    [
        # Rows and columns from and up to, of 160 x 152.
        ((32, 96, 64, 128), 32, True, WARP | {"threads": 128}),
        pytest.param((32, 96, 64, 128), 32, False, WARP, marks=pytest.mark.slow),
        pytest.param((64, 160, 96, 152), 32, True, WARP | {"lanes": 16}, marks=pytest.mark.slow),
        pytest.param(
            (128, 160, 0, 128), 128, True, WARP | {"threads": 256, "lanes": 256},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_part_is_quantised_where_the_codes_of_the_whole_lie(
    part: tuple[int, int, int, int], block: int, transposed: bool, config: dict[str, int]
) -> None:
    whole = (160, 152)
    fmt = TensorFormat.parse(f"int8.b{block}x{block}+sr")
    x = nasty(*whole, "bf16")
    wanted = quantize(x.float().numpy(), fmt, seed=SEED)
    top, bottom, left, right = part
    here = np.s_[top:bottom, left:right]
    got = run(
        np.ascontiguousarray(x[here].view(torch.int16).numpy().view(np.uint16)),
        source="bf16",
        block=(block, block),
        transposed=transposed,
        config=config,
        seed=SEED,
        whole=whole,
        place=(top, left),
    )
    untouched = run(
        np.ascontiguousarray(x[:block, :block].view(torch.int16).numpy().view(np.uint16)),
        source="bf16", block=(block, block), transposed=transposed, config=config, seed=SEED,
        whole=whole, place=(0, 0),
    )  # fmt: skip
    codes = wanted.codes.view(np.int8)
    grid = tuple(slice(s.start // block, -(-s.stop // block)) for s in here)
    for end, turn in (("", np.asarray), ("_t", np.transpose))[: 1 + transposed]:
        found, scales = turn(got[f"codes{end}"]), turn(got[f"scales{end}"])
        np.testing.assert_array_equal(found[here], codes[here])
        np.testing.assert_array_equal(scales[grid], wanted.scales[grid])
        # What lies beside is as it was: the same poison as in a launch of another part.
        beside = np.ones(whole, bool)
        beside[here] = beside[:block, :block] = False
        np.testing.assert_array_equal(found[beside], turn(untouched[f"codes{end}"])[beside])


@pytest.mark.parametrize("bits", [8, 11], ids=["bf16", "fp16"])
def test_every_short_quotient_is_correctly_rounded(bits: int) -> None:
    """By all scales that an amax of so many bits gives; powers of two change nothing."""
    assert wrong_quotients(bits) == 0


def test_kernels_draw_philox_bits_by_wide_and_by_narrow_counters() -> None:
    """The last counters of 32 bits too, which only matrices of gigabytes have."""
    first, last = np.arange(4, dtype=np.uint64), 2**32 - np.arange(1, 5, dtype=np.uint64)
    some = np.random.default_rng(3).integers(0, 2**32, 50, np.uint64)
    counters = np.concatenate((first, last, some))
    beyond = counters + np.uint64(2**32)
    for seed in (0, 1, 2**64 - 1, SEED):
        wanted = philox(counters, seed)
        np.testing.assert_array_equal(drawn(counters, narrow_keys(seed), narrow=True), wanted)
        np.testing.assert_array_equal(drawn(counters, round_keys(seed), narrow=False), wanted)
        wide = drawn(beyond, round_keys(seed), narrow=False)
        np.testing.assert_array_equal(wide, philox(beyond, seed))


@pytest.mark.parametrize(("source", "bits"), [("bf16", 1), ("fp32", 190)])
def test_quotients_beyond_the_largest_code_are_limited(source: str, bits: int) -> None:
    """Subnormal scales carry few bits: the quotient of their largest number is above 127."""
    rng = np.random.default_rng(5)
    kind = np.uint16 if source == "bf16" else np.uint32
    signs = rng.integers(0, 2, (32, 32)).astype(kind) << np.array(8 * kind().nbytes - 1, kind)
    raw = signs | kind(bits)
    wide = raw.astype(np.uint32) << 16 if source == "bf16" else raw
    wanted = quantize(wide.view(np.float32), TensorFormat.parse("int8.b32x32+sr"), seed=SEED)
    assert set(np.unique(wanted.codes.view(np.int8))) == {-127, 127}
    got = run(
        raw if source == "bf16" else raw.view(np.float32),
        source=source,
        block=(32, 32),
        transposed=False,
        config=WARP,
        seed=SEED,
    )
    np.testing.assert_array_equal(got["codes"], wanted.codes.view(np.int8))


@pytest.mark.parametrize(
    ("shape", "rows", "cols", "warps"),
    [
        ((80, 96), 32, 64, 1),
        pytest.param((70, 45), 64, 32, 1, marks=pytest.mark.slow),
        pytest.param((256, 128), 128, 128, 4, marks=pytest.mark.slow),
        pytest.param((144, 272), 64, 256, 2, marks=pytest.mark.slow),
        pytest.param((272, 64), 256, 32, 2, marks=pytest.mark.slow),
    ],
)
def test_transposes(shape: tuple[int, int], rows: int, cols: int, warps: int) -> None:
    codes = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    out = transpose(codes, {"block_rows": rows, "block_cols": cols, "num_warps": warps})
    np.testing.assert_array_equal(out, codes.T)
