"""What the GPU kernels are held to: the torch codec as codes and scales."""

import numpy as np
import pytest
import torch
from torch_codec_cases import nasty

from tiles.formats import TensorFormat, quantize
from tiles.kernels.quantize_torch import quantize_torch


@pytest.mark.parametrize("scaling", ["tensor", "row", "b1x128", "b128x128", "b32x32", "b3x5"])
@pytest.mark.parametrize("element", ["int8", "e4m3fn", "e5m2"])
def test_equals_the_codec_bit_for_bit(element: str, scaling: str) -> None:
    fmt = TensorFormat.parse(f"{element}.{scaling}")
    for shape in ((1, 1), (7, 300), (128, 256), (130, 129)):
        x = nasty(*shape)
        codes, scales = quantize_torch(torch.from_numpy(x), fmt)
        wanted = quantize(x, fmt)
        assert scales is not None
        np.testing.assert_array_equal(scales.numpy(), wanted.scales, err_msg=str(shape))
        patterns = codes.view(torch.uint8).numpy()
        np.testing.assert_array_equal(patterns, wanted.codes, err_msg=str(shape))
        assert codes.is_contiguous()


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_unscaled_formats_are_rounded_and_have_no_scales(name: str) -> None:
    x = nasty(40, 50)
    codes, scales = quantize_torch(torch.from_numpy(x), TensorFormat.parse(name))
    assert scales is None
    wanted = quantize(x, TensorFormat.parse(name)).values
    np.testing.assert_array_equal(codes.float().numpy(), wanted)


@pytest.mark.parametrize("name", ["nvfp4", "uint4.g32"])
def test_refuses_formats_of_more_than_codes_and_scales(name: str) -> None:
    with pytest.raises(ValueError, match="more than codes and scales: take quantize_tensor"):
        quantize_torch(torch.ones(4, 32), TensorFormat.parse(name))
