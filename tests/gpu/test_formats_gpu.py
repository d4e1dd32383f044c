"""The torch codec on a GPU, eager and compiled, bit for bit against the NumPy reference."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tiles.formats import ELEMENTS, Quantized, TensorFormat, dequantize, quantize
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tiles"))  # cases shared with the CPU's tests
import torch_codec_cases as cases

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

#: 96 chunks of 2^20 words, each in a core's cache: 10^8 random words a format.
SHAPE = (256, 4096)
CHUNKS = 96

Quantizer = Callable[[torch.Tensor], list[QuantizedTensor]]


def quantizer(names: list[str], seed: int, *, compiled: bool) -> Quantizer:
    """Quantise to several formats in one function, which is one graph when compiled."""
    formats = [TensorFormat.parse(name) for name in names]

    def run(x: torch.Tensor) -> list[QuantizedTensor]:
        return [quantize_tensor(x, fmt, seed=seed) for fmt in formats]

    if not compiled:
        return run
    torch._dynamo.reset()
    compiled_run: Quantizer = torch.compile(run, fullgraph=True, dynamic=False)
    return compiled_run


def words(chunk: int) -> cases.F32:
    """Random fp32 bit patterns; chunk 0 begins with every bf16 number there is."""
    drawn = np.random.default_rng(chunk).integers(0, 1 << 32, SHAPE, dtype=np.uint32)
    if chunk == 0:
        drawn.flat[: 1 << 16] = np.arange(1 << 16, dtype=np.uint32) << 16
    return drawn.view(np.float32)


def check_codes(found: QuantizedTensor, wanted: Quantized, x: cases.F32) -> int:
    """Compare codes, naming the first word whose code differs; returns how many."""
    codes = found.bits.cpu().numpy().view(wanted.codes.dtype)
    differs = np.flatnonzero(codes != wanted.codes)
    if len(differs):
        at = differs[0]
        pytest.fail(
            f"{wanted.format}: {len(differs)} codes differ, first of {x.flat[at]!r}: "
            f"{codes.flat[at]:#x}, wanted {wanted.codes.flat[at]:#x}"
        )
    return int(codes.size)


def check_scaled(
    name: str,
    *matrices: np.ndarray,
    device: str,
    compiled: bool,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Compare codes, scales and values of a scaled format on given data; returns how many."""
    fmt = TensorFormat.parse(name)
    run, compared = quantizer([name], 5, compiled=compiled), 0
    for x in matrices:
        with np.errstate(all="ignore"):
            wanted = quantize(x, fmt, seed=5)
            values = dequantize(wanted)
            narrow = values.astype(np.float32)
        (got,) = run(torch.from_numpy(x).to(device, dtype))
        cases.assert_same(got, wanted, f"{device}, compiled {compiled}")
        np.testing.assert_array_equal(got.dequantize(torch.float64).cpu().numpy(), values)
        np.testing.assert_array_equal(got.dequantize().cpu().numpy(), narrow)
        compared += wanted.codes.size
    return compared


@pytest.mark.parametrize("element", ELEMENTS)
def test_random_words_and_every_bf16_number(element: str) -> None:
    names = [f"{element}{rounding}" for rounding in cases.ROUNDINGS]
    # Stochastic rounding has the same seed in every chunk: the chunks have words of their own.
    runs = [quantizer(names, 0, compiled=compiled) for compiled in (False, True)]
    compared = 0
    for chunk in range(CHUNKS):
        x = words(chunk)
        with np.errstate(all="ignore"):
            wanted = [quantize(x, TensorFormat.parse(name)) for name in names]
        on_gpu = torch.from_numpy(x).cuda()
        for run in runs:
            for found, reference in zip(run(on_gpu), wanted, strict=True):
                compared += check_codes(found, reference, x)
    print(f"{element}: {compared} codes, eager and compiled")
    assert compared >= 2 * len(names) * 10**8


@pytest.mark.parametrize(
    "name", [*(f"{p}{r}" for p in cases.PARAMETRIC for r in cases.ROUNDINGS), *cases.OVERFLOWING]
)
def test_every_bf16_number_in_parametric_elements(name: str) -> None:
    x = cases.all_bf16()
    fmt = TensorFormat.parse(name)
    got = quantize_tensor(torch.from_numpy(x).to("cuda", torch.bfloat16), fmt, seed=3)
    with np.errstate(all="ignore"):
        cases.assert_same(got, quantize(x, fmt, seed=3))


@pytest.mark.parametrize("element", cases.PARAMETRIC)
def test_every_bf16_number_in_parametric_elements_compiled(element: str) -> None:
    names = [f"{element}{rounding}" for rounding in cases.ROUNDINGS]
    names += [name for name in cases.OVERFLOWING if name.partition("+")[0] == element]
    x = cases.all_bf16()
    found = quantizer(names, 3, compiled=True)(torch.from_numpy(x).cuda())
    for got, name in zip(found, names, strict=True):
        with np.errstate(all="ignore"):
            cases.assert_same(got, quantize(x, TensorFormat.parse(name), seed=3), "compiled")


both_ways = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


@pytest.mark.parametrize("name", cases.SCALED_AND_NAMED)
@both_ways
def test_every_bf16_number_under_every_scaling(name: str, compiled: bool) -> None:
    if compiled and any(rule in name for rule in ("+p9", "+p5")):
        pytest.skip("percentiles are not compiled")
    x = cases.bf16_matrices()
    count = check_scaled(name, *x, device="cuda", compiled=compiled, dtype=torch.bfloat16)
    print(f"{name}: {count} codes compared")


@pytest.mark.parametrize("name", cases.SCALED_AND_NAMED)
@both_ways
def test_block_scales_of_normal_data(name: str, compiled: bool) -> None:
    if compiled and any(rule in name for rule in ("+p9", "+p5")):
        pytest.skip("percentiles are not compiled")
    x = np.random.default_rng(1).standard_normal((1003, 1050)).astype(np.float32)
    x[::7] *= np.float32(1e-3)
    x[500:540, 90:300] = 0
    x[3, 5], x[900, 1000] = np.nan, -np.inf
    print(f"{name}: {check_scaled(name, x, device='cuda', compiled=compiled)} codes compared")


@pytest.mark.parametrize("name", [*cases.SCALED_AND_NAMED, *cases.SEARCHED])
def test_block_scales_of_nasty_data(name: str) -> None:
    for shape in ((1, 1), (7, 65), (37, 129)):
        x = cases.nasty(*shape)
        check_scaled(name, x, device="cuda", compiled=False)
        with np.errstate(under="ignore"):
            check_scaled(name, x * np.float32(1e-36), device="cuda", compiled=False)


def test_memory_in_use_is_bounded() -> None:
    """4 GB of bf16 are quantised in pieces: a small part of them is in use beside the result."""
    x = torch.zeros(1 << 17, 1 << 14, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    quantized = quantize_tensor(x, TensorFormat.parse("nvfp4"))
    result = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    print(f"result {result / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB")
    assert peak <= result + 240 * (1 << 24)
    assert bool((quantized.codes[-1] == 0x7).all())
    assert not bool(quantized.codes[:-1].any())
