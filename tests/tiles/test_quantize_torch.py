"""The torch quantiser against the NumPy codec, bit for bit."""

import numpy as np
import pytest
import torch

from tiles.formats import TensorFormat, quantize
from tiles.kernels.quantize_torch import quantize_torch

ELEMENTS = ("int8", "e4m3fn", "e5m2")
SCALINGS = ("tensor", "row", "b1x128", "b128x128", "b32x32", "b3x5")
SHAPES = ((1, 1), (7, 300), (128, 256), (130, 129))


def nasty(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Wide-ranging values with zero, subnormal, NaN and infinite blocks among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * 10.0 ** rng.integers(-6, 5, (rows, cols))
    x[: rows // 2, : cols // 3] = 0
    x[rows // 2 :, : cols // 4] *= 1e-38
    x[rows // 3 : rows // 2, cols // 2 :] *= 1e-44
    if rows * cols > 1000:
        x[rows - 1, cols - 1], x[rows // 2, cols // 2], x[0, cols - 3] = np.nan, np.inf, -np.nan
    with np.errstate(over="ignore"):
        return torch.from_numpy(x.astype(np.float32))


def reference_codes(x: torch.Tensor, fmt: TensorFormat) -> tuple[np.ndarray, np.ndarray]:
    """The codec's codes as bytes and its scales."""
    quantized = quantize(x.float().numpy(), fmt)
    return quantized.codes, quantized.scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("element", ELEMENTS)
def test_equals_the_codec_bit_for_bit(element: str, scaling: str, dtype: torch.dtype) -> None:
    fmt = TensorFormat.parse(f"{element}.{scaling}")
    for shape in SHAPES:
        x = nasty(*shape).to(dtype)
        codes, scales = quantize_torch(x, fmt)
        wanted_codes, wanted_scales = reference_codes(x, fmt)
        assert scales is not None
        np.testing.assert_array_equal(scales.numpy(), wanted_scales, err_msg=str(shape))
        np.testing.assert_array_equal(
            codes.view(torch.uint8).numpy(), wanted_codes, err_msg=str(shape)
        )
        assert codes.is_contiguous()


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_unscaled_formats_are_rounded_and_have_no_scales(name: str) -> None:
    x = nasty(40, 50)
    codes, scales = quantize_torch(x, TensorFormat.parse(name))
    assert scales is None
    wanted = quantize(x.numpy(), TensorFormat.parse(name)).values
    np.testing.assert_array_equal(codes.float().numpy(), wanted)


def test_row_contiguous_scales_of_1xb_blocks_are_padded_to_four_rows() -> None:
    _, scales = quantize_torch(torch.ones(6, 300), TensorFormat.parse("e4m3fn.b1x128"))
    assert scales is not None
    assert scales.shape == (6, 3)
    assert scales.stride() == (1, 8)


def test_refuses_what_is_no_matrix_of_floats() -> None:
    fmt = TensorFormat.parse("int8.row")
    with pytest.raises(ValueError, match=r"non-empty matrix, got shape \(3,\)"):
        quantize_torch(torch.ones(3), fmt)
    with pytest.raises(TypeError, match="bf16, fp16 or fp32, got torch"):
        quantize_torch(torch.ones(3, 3, dtype=torch.int32), fmt)


def test_leaves_its_input_as_it_was() -> None:
    x = nasty(64, 64)
    before = x.clone()
    quantize_torch(x, TensorFormat.parse("int8.b32x32"))
    np.testing.assert_array_equal(x.numpy(), before.numpy())
