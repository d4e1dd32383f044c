"""The NVFP4 quantisation in CUDA C++ run on the CPU, right bit for bit."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_matrices import nasty
from nvfp4_on_host import bf16_bits, quantize, wrong_codes, wrong_scales

from tiles.formats import TensorFormat
from tiles.formats.packing import pack_codes
from tiles.formats.torch_codec import quantize_tensor

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

NVFP4 = TensorFormat.parse("nvfp4")
FUSED = {"num_warps": 2, "stages": 2, "held": 0, "fused": True, "kept_mib": 0}
TWO = FUSED | {"fused": False}
#: Bits of a bf16 number of each mantissa, in one binade.
MANTISSAS = range(0x4080, 0x4100)


def _wanted(x: torch.Tensor) -> dict[str, np.ndarray]:
    """What the codec makes of a matrix."""
    coded = quantize_tensor(x, NVFP4)
    assert coded.tensor_scale is not None
    return {
        "codes": pack_codes(coded.bits, 4).numpy(),
        "scales": coded.scale_bits.numpy(),
        "tensor_scale": coded.tensor_scale.reshape(1).numpy(),
    }


def _check(x: torch.Tensor, config: dict[str, Any], ctas: int = 3) -> None:
    got, workspace = quantize(bf16_bits(x.float().numpy()), config=config, ctas=ctas)
    assert not workspace.any()
    for name, wanted in _wanted(x).items():
        np.testing.assert_array_equal(got[name].view(np.uint8), wanted.view(np.uint8), err_msg=name)


@pytest.mark.parametrize(
    ("config", "shape", "ctas"),
    [
        (FUSED | {"held": 2}, (44, 192), 2),
        pytest.param(FUSED, (48, 256), 2, marks=pytest.mark.slow),
        pytest.param(FUSED | {"stages": 4, "held": 3}, (130, 272), 1, marks=pytest.mark.slow),
        pytest.param(FUSED | {"stages": 3, "held": 3}, (16, 112), 1, marks=pytest.mark.slow),
        pytest.param(TWO, (48, 256), 3, marks=pytest.mark.slow),
        pytest.param(FUSED | {"stages": 3, "kept_mib": 1}, (64, 256), 3, marks=pytest.mark.slow),
        pytest.param(FUSED | {"num_warps": 1}, (40, 256), 1, marks=pytest.mark.slow),
        pytest.param(FUSED | {"stages": 5}, (7, 32), 8, marks=pytest.mark.slow),
        pytest.param(TWO | {"stages": 4}, (130, 80), 2, marks=pytest.mark.slow),
        pytest.param(FUSED, (257, 48), 3, marks=pytest.mark.slow),
    ],
    ids=[
        "held",
        "fused",
        "held ragged",
        "too short to hold",
        "two",
        "kept",
        "warp",
        "short",
        "two ragged",
        "ragged",
    ],
)
def test_equals_the_codec_bit_for_bit(
    config: dict[str, Any], shape: tuple[int, int], ctas: int
) -> None:
    _check(nasty(*shape, "bf16"), config, ctas)


@pytest.mark.parametrize(
    "largest",
    [
        pytest.param(3.0e38, marks=pytest.mark.slow),
        pytest.param(2688.0, marks=pytest.mark.slow),
        pytest.param(1.7, marks=pytest.mark.slow),
        pytest.param(1e-30, marks=pytest.mark.slow),
        pytest.param(2.0**-88, marks=pytest.mark.slow),
        pytest.param(2.0**-90, marks=pytest.mark.slow),
        2.0**-126,
        pytest.param(2.0**-133, marks=pytest.mark.slow),
        pytest.param(0.0, marks=pytest.mark.slow),
    ],
)
def test_tensors_of_all_sizes(largest: float) -> None:
    """Scales that are normal numbers, and those that are not, down to no number but zero."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((24, 128)) * 10.0 ** rng.integers(-6, 1, (24, 128))
    x = torch.from_numpy((x / np.abs(x).max() * largest).astype(np.float32)).bfloat16()
    x[3, 5] = largest
    x[7, 16:32], x[8, 40] = 0.0, -0.0
    _check(x, FUSED | {"held": 1}, 1)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 70),
    blocks=st.integers(1, 20),
    config=st.sampled_from([FUSED | {"held": 2}, FUSED | {"stages": 3, "num_warps": 1}, TWO]),
    ctas=st.integers(1, 5),
    exponent=st.integers(-140, 127),
    seed=st.integers(0, 2**32 - 1),
)
def test_matrices_of_all_extents_and_sizes(
    rows: int, blocks: int, config: dict[str, Any], ctas: int, exponent: int, seed: int
) -> None:
    """Any bits below a largest exponent, NaN and infinity among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**16, (rows, 16 * blocks)).astype(np.uint32) << 16
    x = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.where(np.abs(x) > 2.0**exponent, rng.standard_normal(x.shape) * 2.0**exponent, x)
    x[rng.random(x.shape) < 0.002] = rng.choice([np.nan, np.inf, -np.inf])
    with np.errstate(over="ignore", invalid="ignore"):
        made = torch.from_numpy(x.astype(np.float32)).bfloat16()
    _check(made, config, ctas)


@pytest.mark.slow
def test_steps_give_the_codes_of_all_quotients() -> None:
    """Every bf16 number by every scale, under the mantissa of every largest magnitude.

    Powers of two change nothing where all scales are normal numbers; the ends are tried as well.
    """
    for amax in [0x7F7F, 0x1400, *MANTISSAS]:
        assert wrong_codes(amax) == 0, hex(amax)
        assert wrong_scales(amax) == 0, hex(amax)
