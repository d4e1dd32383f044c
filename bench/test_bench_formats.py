"""How fast the torch codec is on a CPU, beside a plain cast to FP8: ``make bench``.

The plain pass is what a user would write for one fp32 scale a block and no rule about zeros, NaN,
ties of the scale or saturation: ``amax``, ``mul``, ``to(float8)``.  Both are timed in turns, in
processor time on one thread, so that what else the machine does stays out of the ratio.
"""

import time
from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from tiles.formats import TensorFormat
from tiles.formats.packed import pack
from tiles.formats.torch_codec import quantize_tensor

SHAPE = (4096, 4096)
BLOCK = 32
FP8 = ("e4m3fn.mx", "e5m2.mx", "e4m3fn.b1x32")
SUB_BYTE = ("e2m1fn.mx", "nvfp4", "e2m3fn.mx", "e3m2fn.mx", "int4.g32")
#: Encoding and decoding together take at most so many times the plain pass.
BARS = dict.fromkeys(FP8, 3.0) | dict.fromkeys(SUB_BYTE, 10.0)
ROUNDS = 5


pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator).to(torch.bfloat16)


def plain_pass(x: torch.Tensor) -> torch.Tensor:
    blocks = x.view(-1, BLOCK)
    amax = blocks.abs().amax(dim=1, keepdim=True)
    return blocks.mul(448.0 / amax).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("name", BARS)
def test_encode_and_decode(benchmark: BenchmarkFixture, x: torch.Tensor, name: str) -> None:
    fmt = TensorFormat.parse(name)
    plain: list[float] = []

    def plain_in_turn() -> None:
        start = time.process_time()
        plain_pass(x)
        plain.append(time.process_time() - start)

    def round_trip() -> torch.Tensor:
        return quantize_tensor(x, fmt).dequantize()

    values = benchmark.pedantic(
        round_trip, setup=plain_in_turn, rounds=ROUNDS, warmup_rounds=1, iterations=1
    )
    assert values.shape == x.shape
    assert benchmark.stats is not None
    ratio = benchmark.stats["min"] / min(plain)
    benchmark.extra_info["times the plain pass"] = round(ratio, 2)
    benchmark.extra_info["plain ms"] = round(min(plain) * 1e3, 1)
    print(f"{name}: {ratio:.2f} times the plain pass of {min(plain) * 1e3:.0f} ms")
    assert ratio <= BARS[name], f"{name}: {ratio:.2f} times the plain pass, at most {BARS[name]}"


@pytest.mark.parametrize("name", ["e2m1fn.mx", "e3m2fn.mx", "nvfp4"])
def test_pack(benchmark: BenchmarkFixture, x: torch.Tensor, name: str) -> None:
    quantized = quantize_tensor(x, TensorFormat.parse(name))
    packed = benchmark.pedantic(pack, (quantized,), rounds=ROUNDS, warmup_rounds=1)
    assert packed.format == quantized.format


def test_plain_pass(benchmark: BenchmarkFixture, x: torch.Tensor) -> None:
    assert benchmark(plain_pass, x).dtype == torch.float8_e4m3fn
