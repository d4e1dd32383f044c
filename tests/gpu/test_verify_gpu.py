"""Emit and verify on a GPU: answers at full size, torch.compile, CUDA graphs, rivals."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import tuning
from sim import Gpu
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.emission import emit
from workbench.verification import Outcome, VerifyReport, verify

pytestmark = pytest.mark.gpu

PROBLEMS = (
    ("gemm:512x1024x512:bf16:bf16", "triton_gemm"),
    ("gemm:512x1024x512:e4m3-row:bf16", "triton_gemm"),
    ("gemm:512x1024x512:deepseek-fp8:bf16", "triton_gemm"),
    ("gemm:2048x2048x4096:deepseek-fp8:bf16", "triton_gemm"),
    ("gemm:512x1024x512:int8-row:bf16", "triton_gemm"),
    ("gemm:512x1024x512:jetfire:bf16", "triton_gemm"),
    ("gemm:1024x512x1024:bf16:bf16", "hopper_gemm"),
    ("gemm:1024x512x1024:e4m3-row:fp16", "hopper_gemm"),
    ("gemm:1024x512x1024:deepseek-fp8:bf16", "hopper_gemm"),
    ("gemm:16x512x1024:deepseek-fp8:bf16", "hopper_gemm"),
    ("gemm:1024x512x1024:int8-row:fp32", "hopper_gemm"),
    ("gemm:1024x512x1024:int8-b128:bf16", "hopper_gemm"),
    ("gemm:16x1024x2048:bf16:bf16", "hopper_skinny_gemm"),
    ("gemm:4x1024x2048:e4m3-row:fp16", "hopper_skinny_gemm"),
    ("gemm:33x1024x2048:deepseek-fp8:bf16", "hopper_skinny_gemm"),
    # At another M the other kernel has these N and K.
    ("gemm:64x512x1024:int8-b128:bf16", "hopper_skinny_gemm"),
    ("quantize:512x1024:e4m3fn.b1x128:bf16", "triton_quantize"),
    ("quantize:512x1024:int8.b32x32:bf16", "triton_quantize"),
    ("quantize:512x1024:int8.row:bf16", "cuda_quantize"),
)


HOPPER = ("hopper_gemm", "hopper_skinny_gemm")
PRODUCTS = ("triton_gemm", *HOPPER)


def _verified(
    problems: Sequence[tuple[str, str]], gpu: Gpu, folder: Path, *, seed: int
) -> tuple[list[tuning.StudyPlan], VerifyReport]:
    """What of these the GPU serves, and the report on their package, in which nothing failed."""
    studies = [
        tuning.StudyPlan(problem=parse_problem(text), kernel=family)
        for text, family in problems
        if kernel(family).refusal(parse_problem(text), gpu.limits) is None
    ]
    assert studies
    plan = tuning.Plan(
        studies=tuple(studies),
        gpu=gpu,
        folder=folder / "sweep",
        simulate=True,
        max_measurements=2,
    )
    package = emit(tuning.run(plan), folder / "kernels", name="tile_pack")
    report = verify(package.folder, device="cuda", seed=seed)
    assert {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED} == {}
    return studies, report


def test_emitted_package_passes_on_this_gpu(gpu: Gpu, tmp_path: Path) -> None:
    studies, report = _verified(PROBLEMS, gpu, tmp_path, seed=11)
    assert report.device == "cuda"
    assert report.not_checked == ()
    names = {c.name for c in report.checks if c.status is Outcome.PASSED}
    for study in studies:
        if study.kernel not in PRODUCTS:
            continue
        parts = ["random", "one row beside", "tails of the tuned tile", "NaN block"]
        if study.kernel in HOPPER:
            parts += ["rows off a 16-byte boundary", "CuPy arrays"]
        for part in (*parts, "subnormal elements", "configuration"):
            assert f"{study.kernel} {study.problem}: {part}" in names
    if any(study.kernel in HOPPER for study in studies):
        compiled = {name for name in names if "torch.compile fullgraph" in name}
        assert sum(name.startswith("hopper_gemm") for name in compiled) == 5
        assert sum(name.startswith("hopper_skinny_gemm") for name in compiled) == 4
        assert "CuPy without torch" in names
    for study in studies:
        if study.kernel in ("triton_quantize", "cuda_quantize"):
            stem = f"{study.kernel} {study.problem}"
            assert {f"{stem}: torch.compile fullgraph", f"{stem}: CUDA graph"} <= names
            if study.kernel == "cuda_quantize":
                assert f"{stem} by quantize_cuda: random" in names
    assert sum("torch.compile fullgraph" in name for name in names) >= 4
    assert sum("CUDA graph" in name for name in names) >= 4
    timed = {(r.problem, r.rival): r for r in report.rivals}
    for study in studies:
        if study.kernel in PRODUCTS:
            own = timed[str(study.problem), "this package"]
            assert own.time_us is not None
            assert own.samples_us
    plain = timed["gemm:512x1024x512", "torch.matmul bf16"]
    assert plain.time_us is not None
    for rival in report.rivals:
        assert (rival.time_us is None) == bool(rival.refused), rival


#: Of every other function, and of every kernel that it launches, one problem at least.
OPERATORS = (
    ("gemm:16x1024x1024:w4a16-g128:bf16", "triton_weight_only"),
    ("gemm:8x1024x1024:w4a16-g128:bf16", "hopper_weight_only"),
    ("gemm:16x1024x1024:w8a16:bf16", "hopper_weight_only"),
    ("gemm:512x1024x1024:w4a16-g128:bf16", "hopper_weight_prefill"),
    ("gemm:256x1024x1024:w8a16:bf16", "hopper_weight_prefill"),
    ("gemm:256x512x1024:nvfp4:bf16", "triton_decoded_gemm"),
    ("gemm:1024x512x1024:mxfp8-e4m3:bf16", "hopper_block_gemm"),
    ("gemm:8192x512x1024:mxfp8-e4m3:bf16", "hopper_aligned_gemm"),
    ("gemm:16x512x1024:mxfp8-e4m3:bf16", "hopper_skinny_gemm"),
    ("gemm:1024x512x1024:jetfire:int8.b32x32+sr", "hopper_block_gemm"),
    ("gemm:256x512x1024:llm-int8:bf16", "triton_outlier_gemm"),
    ("gemm:256x512x1024:int8-fallback:bf16", "triton_outlier_gemm"),
    ("grouped_gemm:4x512x512x1024:deepseek-fp8:contiguous:bf16", "triton_grouped_gemm"),
    ("grouped_gemm:4x512x512x1024:deepseek-fp8:gathered.2:bf16", "triton_grouped_gemm"),
    ("grouped_gemm:4x512x512x1024:deepseek-fp8:masked.256:bf16", "hopper_grouped_gemm"),
    ("grouped_gemm:4x512x512x1024:int8-row:padded.128:bf16", "hopper_grouped_gemm"),
    ("batched_gemm:16x256x512x128:e4m3-row:nk:bf16", "triton_batched_gemm"),
    ("batched_gemm:16x256x128x512:int8-row:kn:bf16", "triton_batched_gemm"),
    ("quantize:512x1024:int8.b32x32:bf16:transposed", "triton_quantize_tiles"),
    ("quantize:512x1024:int8.b32x32+sr:bf16", "cuda_quantize"),
    ("quantize:512x1024:int8.b128x128:bf16:transposed", "cuda_quantize"),
    ("dequantize:512x1024:nvfp4:bf16", "triton_dequantize"),
    ("transpose:512x1024:e4m3fn", "triton_transpose"),
    ("transpose:512x1024:int8", "cuda_transpose"),
    ("dataflow:512x1024:gelu:int8.b32x32+sr", "cuda_dataflow_blocks"),
    ("dataflow:512x1024:dropout:int8.b1x128", "cuda_dataflow_blocks"),
    ("dataflow:512x1024:layernorm-apply:e4m3fn.b32x32", "cuda_dataflow_blocks"),
    ("dataflow:512x1024:residual:int8.b32x32+sr", "cuda_dataflow_rows"),
    ("dataflow:512x1024:layernorm-bwd:int8.b32x32", "cuda_dataflow_rows"),
)


def test_every_function_passes_on_this_gpu(gpu: Gpu, tmp_path: Path) -> None:
    studies, report = _verified(OPERATORS, gpu, tmp_path, seed=12)
    assert report.not_checked == ()
    names = {c.name for c in report.checks if c.status is Outcome.PASSED}
    parts = ("configuration", "random", "tails of the tuned tile", "torch.compile fullgraph")
    for study in studies:
        for part in (*parts, "CUDA graph"):
            assert f"{study.kernel} {study.problem}: {part}" in names
