"""Quantisation kernels write what they compute today, and refuse every other target in one line."""

import pytest

from sim import gpu_names, load_gpu
from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.problems import Quantize
from tiles.recipes import RECIPES

FAMILIES = ("triton_quantize", "cuda_quantize")
#: Targets of the recipes that the Triton kernel writes; CUDA C++ leaves out whole tensors.
WRITTEN = {
    *("e4m3fn.tensor", "e4m3fn.row", "e5m2.tensor", "e5m2.row", "e4m3fn.b1x128", "e5m2.b1x128"),
    *("int8.tensor", "int8.row", "int8.b1x128", "int8.b128x128", "int8.b64x64", "int8.b32x32"),
    "e4m3fn.b128x128",
}
TARGETS = sorted({str(r.activation) for r in RECIPES.values() if r.quantized})


def refusal(family: str, target: str, gpu: str = "h200") -> str | None:
    problem = Quantize(rows=64, cols=256, target=TensorFormat.parse(target))
    return kernel(family).refusal(problem, load_gpu(gpu).limits)


@pytest.mark.parametrize("gpu", gpu_names())
@pytest.mark.parametrize("target", TARGETS)
def test_every_recipe_s_activations_are_written_or_refused(target: str, gpu: str) -> None:
    assert WRITTEN <= set(TARGETS)
    reason = refusal("triton_quantize", target, gpu)
    assert (reason is None) == (target in WRITTEN), reason
    assert reason is None or ("\n" not in reason and len(reason) < 160)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("e4m3fn.b32x32+sr", "not e4m3fn"),
        ("int8.b32x32+fp16", "fp32 absmax scales"),
        ("e4m3fn.row+p99.9", "not e4m3fn.row+p99.9"),
        ("e4m3fn.b1x128+pow2", "not e4m3fn.b1x128+pow2"),
        ("int8.row+mse", "not int8.row+mse"),
        ("e4m3fn.mx+rceil", "not e4m3fn.mx+rceil"),
        ("uint8.row", "not uint8"),
        ("mxint8.mx", "not mxint8"),
        ("nvfp4", "not e2m1fn"),
    ],
)
def test_a_target_is_refused_by_its_own_reason(family: str, target: str, says: str) -> None:
    assert says in (refusal(family, target) or "")
