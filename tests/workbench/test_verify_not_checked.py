"""What a verification without a GPU says it left open follows from what the package holds."""

import pytest

from workbench.verification.not_checked import without_gpu

PRODUCT, QUANTIZE = "gemm:16x64x256:{}:bf16", "quantize:64x256:{}:{}"
ROUNDING, SUBNORMAL, NAN = "rounding to 8-bit floats", "subnormal {} inputs", "NaN codes of e4m3fn"
COMPILED, CUPY, OPERATORS = "compiled code", "CuPy kernels", "torch.compile"
INTERPRETED = {"tuned shapes", COMPILED}


@pytest.mark.parametrize(
    ("entries", "more"),
    [
        ([("triton_gemm", PRODUCT.format("int8-row"))], {*INTERPRETED, OPERATORS}),
        (
            [("triton_gemm", PRODUCT.format("bf16")), ("triton_gemm", PRODUCT.format("e5m2-row"))],
            {*INTERPRETED, OPERATORS, SUBNORMAL.format("bf16 and e5m2")},
        ),
        ([("triton_gemm", PRODUCT.format("unit-scaling"))], {*INTERPRETED, OPERATORS, NAN}),
        ([("hopper_gemm", PRODUCT.format("int8-row"))], {*INTERPRETED, OPERATORS, CUPY}),
        ([("hopper_skinny_gemm", PRODUCT.format("int8-row"))], {*INTERPRETED, OPERATORS, CUPY}),
        (
            [("hopper_grouped_gemm", "grouped_gemm:4x64x64x256:int8-row:contiguous:bf16")],
            {*INTERPRETED, OPERATORS, CUPY},
        ),
        (
            [("triton_batched_gemm", "batched_gemm:2x64x64x256:bf16:nk:bf16")],
            {*INTERPRETED, OPERATORS, SUBNORMAL.format("bf16")},
        ),
        ([("triton_transpose", "transpose:64x256:e5m2")], {*INTERPRETED, OPERATORS}),
        ([("cuda_transpose", "transpose:64x256:e5m2")], {*INTERPRETED, OPERATORS, CUPY}),
        ([("triton_dequantize", "dequantize:64x256:e5m2.row:bf16")], {*INTERPRETED, OPERATORS}),
        ([("cuda_dataflow_rows", "dataflow:64x256:rmsnorm:int8.b32x32")], {OPERATORS, CUPY}),
        (
            [("cuda_quantize", QUANTIZE.format("e4m3fn.row", "bf16"))],
            {*INTERPRETED, OPERATORS, CUPY, ROUNDING, SUBNORMAL.format("bf16")},
        ),
        (
            [("cuda_quantize", QUANTIZE.format("int8.row+sr", "fp32"))],
            {*INTERPRETED, OPERATORS, CUPY},
        ),
        (
            [("triton_quantize", QUANTIZE.format("e4m3fn.row", "fp32"))],
            {*INTERPRETED, OPERATORS, ROUNDING},
        ),
        (
            [("triton_quantize", QUANTIZE.format("int8.row", "bf16"))],
            {*INTERPRETED, OPERATORS, SUBNORMAL.format("bf16")},
        ),
    ],
)
def test_only_what_the_package_holds_is_named(
    entries: list[tuple[str, str]], more: set[str]
) -> None:
    config = {"software_cast": False}
    lines = without_gpu({"kernel": k, "problem": p, "config": config} for k, p in entries)
    expected = {"times", *more}
    assert len(lines) == len(expected)
    assert all(any(line.startswith(start) for line in lines) for start in expected), lines


def test_a_cast_in_software_is_checked() -> None:
    entry = {"kernel": "triton_quantize", "problem": QUANTIZE.format("e4m3fn.row", "fp32")}
    lines = without_gpu([{**entry, "config": {"software_cast": True}}])
    assert not any(ROUNDING in line for line in lines)
