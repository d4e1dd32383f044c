"""Codes that the kernels make of matrices, against the twin that computes on the CPU."""

import pytest
import torch
from coded_matrices import COLS, FORMATS, ROWS, SEED, TWIN
from near_codes import moved

from tiles.formats import TensorFormat
from workbench.nn import (
    Codes,
)
from workbench.nn.cuda_backend import CudaBackend

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("rounding", ["", "+sr"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_quantises_and_dequantises_to_the_bit(
    fmt: str, rounding: str, kernels: CudaBackend
) -> None:
    kernels = CudaBackend(kernels.device)  # what others left unserved is not asked here
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = TensorFormat.parse(fmt + rounding)
    found = kernels.quantize(x.cuda(), out, seed=SEED)
    expected = TWIN.quantize(x, out, seed=SEED)
    back = moved(found, "cpu").main
    assert torch.equal(back.codes, expected.main.codes)
    assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]
    for dtype in (torch.bfloat16, torch.float32):
        values = kernels.dequantize(found, dtype).cpu()
        assert torch.equal(values, expected.dequantize(dtype))
    assert kernels.unserved == {}


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e5m2.mx", "mxint8.mx+sr"])
def test_quantises_and_dequantises_under_e8m0_scales(fmt: str, kernels: CudaBackend) -> None:
    kernels = CudaBackend(kernels.device)
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    x[0] = 0
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize(x.cuda(), out, seed=SEED), TWIN.quantize(x, out, seed=SEED)
    back = moved(found, "cpu").main
    assert torch.equal(back.bits, expected.main.bits)
    assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]
    assert torch.equal(
        kernels.dequantize(found, torch.bfloat16).cpu(), expected.dequantize(torch.bfloat16)
    )
    assert kernels.unserved == {}


@pytest.mark.parametrize("fmt", [*(f"{one}+sr" for one in FORMATS), "e5m2.tensor"])
def test_both_directions_of_a_gradient_in_one_pass(fmt: str, kernels: CudaBackend) -> None:
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16().cuda()
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize_both(x, out, seed=SEED), kernels.quantize(x, out, seed=SEED)
    assert torch.equal(found.main.bits, expected.main.bits)
    assert found.turned is not None
    assert torch.equal(found.turned.bits, expected.main.bits.t())
    assert torch.equal(found.turned.scales, expected.main.scales.t())  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("fmt", ["e4m3fn.b1x128", "e4m3fn.mx", "mxint8.mx"])
def test_both_directions_with_scales_of_their_own_in_one_pass(
    fmt: str, kernels: CudaBackend
) -> None:
    x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = TensorFormat.parse(fmt)
    found, expected = kernels.quantize_directions(x.cuda(), out), TWIN.quantize_directions(x, out)
    for one, other in ((found.forward, expected.forward), (found.turned, expected.turned)):
        assert one is not None
        assert other is not None
        back = moved(one, "cpu").main
        assert torch.equal(back.bits, other.main.bits)
        assert torch.equal(back.scales, other.main.scales)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(512, 1024), (208, 336)])
def test_a_transposed_view_is_quantised_to_the_bit(
    shape: tuple[int, int], fmt: str, kernels: CudaBackend
) -> None:
    out = TensorFormat.parse(fmt)
    for seed in range(2):  # the second is a repeated launch
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
        found, expected = kernels.quantize(x.cuda().t(), out), TWIN.quantize(x.t(), out)
        back = moved(found, "cpu").main
        assert torch.equal(back.codes, expected.main.codes)
        assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]


@pytest.mark.parametrize("fmt", [f"{one}{end}" for one in FORMATS for end in ("", "+sr")])
def test_a_matrix_in_parts_is_quantised_to_the_bit(fmt: str, kernels: CudaBackend) -> None:
    out = TensorFormat.parse(fmt)
    for seed in range(2):  # the second has repeated launches
        x = torch.randn(512, 768, generator=torch.Generator().manual_seed(seed)).bfloat16()
        expected = TWIN.quantize(x, out, seed=SEED + seed).main
        there, rest = x.cuda(), {"parts": (256, 256), "both": True, "seed": SEED + seed}
        made = kernels.assembly((512, 768), x.dtype, there.device, out, **rest)  # type: ignore[arg-type]
        for row in range(0, 512, 256):
            for col in range(0, 768, 256):
                made.put(there[row : row + 256, col : col + 256], row, col)
        found = made.codes()
        assert found.turned is not None
        assert torch.equal(found.main.codes.cpu(), expected.codes)
        assert torch.equal(found.main.scales.cpu(), expected.scales)  # type: ignore[union-attr, arg-type]
        assert torch.equal(found.turned.codes.cpu(), expected.codes.t())
        assert torch.equal(found.turned.scales.cpu(), expected.scales.t())  # type: ignore[union-attr]


@pytest.mark.parametrize("coded", [False, True], ids=["numbers", "codes"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_sums_and_their_codes_are_the_twins_to_the_bit(
    fmt: str, coded: bool, kernels: CudaBackend
) -> None:
    plain, rounded = TensorFormat.parse(fmt), TensorFormat.parse(f"{fmt}+sr")
    for seed in range(2):  # the second is a repeated launch
        generator = torch.Generator().manual_seed(seed)
        x, other = (torch.randn(ROWS, COLS, generator=generator).bfloat16() for _ in range(2))
        y = TWIN.quantize(other, plain) if coded else other
        there = moved(y, "cuda") if isinstance(y, Codes) else y.cuda()
        for out, both in ((None, False), (plain, False), (rounded, True)):
            if not coded and out is None:
                continue  # torch's own addition
            found = kernels.add(x.cuda(), there, out, both=both, seed=SEED + seed)
            expected = TWIN.add(x, y, out, both=both, seed=SEED + seed)
            assert torch.equal(found[0].cpu(), expected[0])
            if found[1] is None or expected[1] is None:
                assert found[1] is expected[1]
                continue
            back, wanted = moved(found[1], "cpu").main, expected[1].main
            assert torch.equal(back.codes, wanted.codes)
            assert torch.equal(back.scales, wanted.scales)  # type: ignore[arg-type]
            if both:
                assert found[1].turned is not None
                assert torch.equal(found[1].turned.codes.cpu(), wanted.codes.t())
                assert torch.equal(found[1].turned.scales.cpu(), wanted.scales.t())  # type: ignore[union-attr]


@pytest.mark.parametrize("fmt", FORMATS)
def test_codes_with_what_they_stand_for_to_the_bit(fmt: str, kernels: CudaBackend) -> None:
    out = TensorFormat.parse(fmt)
    for seed in range(2):  # the second is a repeated launch
        x = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(seed)).bfloat16()
        found, numbers = kernels.quantize_rounded(x.cuda(), out, torch.bfloat16)
        expected, values = TWIN.quantize_rounded(x, out, torch.bfloat16)
        back = moved(found, "cpu").main
        assert torch.equal(back.codes, expected.main.codes)
        assert torch.equal(back.scales, expected.main.scales)  # type: ignore[arg-type]
        assert torch.equal(numbers.cpu(), values)
