"""Codes of the torch codec on a GPU, eager and compiled, against the NumPy reference, bit for bit.

Every element format meets all 65 536 bf16 inputs and 10^8 random fp32 bit patterns (every exponent,
subnormals, infinities and NaNs among them); scaled formats meet both in blocks.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from tiles.formats import ELEMENTS, Quantized, Rounding, TensorFormat, quantize

pytestmark = pytest.mark.gpu

ROWS, COLS = 4096, 1024
RANDOM_VALUES = 10**8
CHUNKS = -(-RANDOM_VALUES // (ROWS * COLS))
SEED = 20_260_101

PLAIN = [
    *ELEMENTS,
    "e4m3b9fnuz",
    "e2m5fn",
    "e5m3",
    "ffp8_e3m4b5",
    "ffp8_ue4m4",
    "e4m3fn+away",
    "e2m1fn+rtz",
    "bf16+rtz",
    "e4m3fn+sr",
    "int8+sr",
    "bf16+sr",
    "e2m1fn+sr",
    "posit8es1+sr",
]
SCALED = [
    "e4m3fn.tensor",
    "e4m3fn.row",
    "e4m3fn.col",
    "e4m3fn.b1x128",
    "e5m2.b128x128",
    "int8.b32x32",
    "int8.b32x32+fp16",
    "int8.b32x32+sr",
    "int8.row+mse",
    "e4m3fn.row+p99.9",
    "e3m4fn.tensor+pow2",
    "e4m3fn.mx",
    "e5m2.mx+rceil",
    "e3m2fn.mx+ceil",
    "e2m3fn.mx+even",
    "e2m1fn.mx",
    "mxint8.mx",
    "e4m3fn.b1x16+e8m0fnu",
    "nvfp4",
    "nvfp4+sr",
    "int4.g128",
    "uint4.g128",
    "uint8.row",
    "nf4.g64",
]


def all_bf16() -> NDArray[np.float32]:
    """Every bf16 number as fp32, (256, 256)."""
    patterns = np.arange(2**16, dtype=np.uint32) << np.uint32(16)
    return patterns.view(np.float32).reshape(256, 256)


def random_patterns(chunk: int, rows: int = ROWS, cols: int = COLS) -> NDArray[np.float32]:
    """Random fp32 bit patterns."""
    random = np.random.default_rng((SEED, chunk))
    return random.integers(0, 2**32, (rows, cols), np.uint32).view(np.float32)


def assert_same(reference: Quantized, x: NDArray[np.float32], device: str, compiled: bool) -> int:
    """Compare codes, scales and zero points; returns the number of codes compared."""
    import torch

    from tiles.formats.torch_codec import quantize_tensor

    fmt = reference.format
    run = torch.compile(quantize_tensor, dynamic=False) if compiled else quantize_tensor
    found = run(torch.from_numpy(x).to(device), fmt, seed=SEED)
    codes = found.bits.cpu().numpy().view(reference.codes.dtype)
    different = np.flatnonzero(codes != reference.codes)
    assert not len(different), (
        f"{fmt}: {len(different)} codes differ, first at {different[0]}: "
        f"{x.flat[different[0]]!r} -> {codes.flat[different[0]]}, "
        f"wanted {reference.codes.flat[different[0]]}"
    )
    if found.scales is not None:
        np.testing.assert_array_equal(found.scales.cpu().numpy(), reference.scales)
    if reference.zero_points is not None:
        assert found.zero_points is not None
        np.testing.assert_array_equal(found.zero_points.cpu().numpy(), reference.zero_points)
    if fmt.scaling is not None and fmt.scaling.two_level:
        assert float(found.tensor_scale) == reference.tensor_scale
    return int(codes.size)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    import torch

    torch._dynamo.reset()  # formats are constants of a graph: many of them pass its limit of graphs


@pytest.mark.parametrize("name", PLAIN)
def test_elements_equal_the_reference(name: str) -> None:
    fmt = TensorFormat.parse(name)
    compared = 0
    for x in (all_bf16(), *(random_patterns(chunk) for chunk in range(CHUNKS))):
        reference = quantize(x, fmt, seed=SEED)
        for compiled in (False, True):
            compared += assert_same(reference, x, "cuda", compiled)
    assert compared >= 2 * (2**16 + RANDOM_VALUES)
    print(f"{name}: {compared} codes, eager and compiled")


@pytest.mark.parametrize("name", SCALED)
def test_scaled_formats_equal_the_reference(name: str) -> None:
    fmt = TensorFormat.parse(name)
    normal = np.random.default_rng(SEED).standard_normal((1027, 1001), dtype=np.float32)
    poisoned = normal[:300, :500].copy()
    poisoned[7, 9], poisoned[40, 400], poisoned[64:96] = np.inf, np.nan, 0.0
    for x in (normal, poisoned, all_bf16(), random_patterns(0, 512, 1000)):
        reference = quantize(x, fmt, seed=SEED)
        for compiled in (False, True):
            assert_same(reference, x, "cuda", compiled)


def test_stochastic_rounding_does_not_depend_on_the_tiling() -> None:
    import torch

    from tiles.formats.torch_codec import quantize_tensor

    fmt = TensorFormat.parse("int8.b32x32+sr")
    assert fmt.rounding is Rounding.STOCHASTIC
    x = torch.randn(1000, 1000, device="cuda")
    whole = quantize_tensor(x, fmt, seed=1)
    pieces = quantize_tensor(x, fmt, seed=1, chunk_elements=4096)
    assert torch.equal(whole.bits, pieces.bits)
