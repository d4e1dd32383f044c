"""Verification of every function of torch tensors but ``quantize``, without a GPU.

One package holds them all, so that it is emitted, installed and checked once; a second check finds
a fault in each kernel.
"""

from pathlib import Path

import pytest
from emit_runs import reseal, run_of, study

from workbench.emission import EmittedPackage, emit
from workbench.verification import Outcome, VerifyReport, verify

#: Tuned entries: kernel family and problem.
ENTRIES = (
    ("triton_weight_only", "gemm:16x64x512:w4a16-g128:bf16"),
    ("triton_decoded_gemm", "gemm:16x64x256:nvfp4:bf16"),
    ("triton_grouped_gemm", "grouped_gemm:4x512x64x256:e4m3-row:gathered.2:bf16"),
    ("triton_quantize_tiles", "quantize:64x256:e4m3fn.mx:bf16"),
    ("triton_quantize_tiles", "quantize:64x256:int8.b32x32:bf16:transposed"),
    ("triton_quantize_tiles", "quantize:128x256:nvfp4:fp32:swizzled"),
    ("triton_batched_gemm", "batched_gemm:8x64x64x256:int8-row:kn:bf16"),
    ("triton_outlier_gemm", "gemm:64x64x256:llm-int8:bf16"),
    ("triton_dequantize", "dequantize:64x256:int8.b32x32:bf16"),
    ("triton_transpose", "transpose:64x256:e4m3fn"),
)
#: The same of a kernel without an interpreter, whose stand-in is checked.
ON_HOPPER = (
    ("hopper_block_gemm", "gemm:512x64x256:mxfp8-e4m3:bf16"),
    ("hopper_skinny_gemm", "gemm:16x64x256:mxfp8-e4m3:bf16"),
    ("hopper_aligned_gemm", "gemm:2048x64x256:mxfp8-e4m3:bf16"),
    ("hopper_block_gemm", "gemm:512x64x256:jetfire:int8.b32x32"),
    ("hopper_grouped_gemm", "grouped_gemm:4x512x64x256:deepseek-fp8:masked.256:bf16"),
    ("hopper_block_gemm", "gemm:512x64x256:jetfire:int8.b32x32+sr"),
    ("cuda_transpose", "transpose:64x256:int8"),
    ("cuda_quantize", "quantize:64x256:int8.b32x32+sr:bf16:transposed"),
    ("cuda_quantize_nvfp4", "quantize:64x256:nvfp4:bf16"),
)
#: The same of kernels that nothing stands in for.
ALONE = (
    ("cuda_dataflow_blocks", "dataflow:256x96:silu-bwd:int8.b32x32"),
    ("cuda_dataflow_rows", "dataflow:256x96:residual:int8.b32x32+sr"),
)
#: Checks of every entry that the interpreter runs.
PARTS = ("configuration", "random", "tails of the tuned tile")
#: Faults: file, what it says, what it says then, the check that has to fail.
FAULTS = (
    (
        "triton/weight_layout.py",
        "return values.t().contiguous()",
        "return values.t().roll(1, 0).contiguous()",
        "triton_weight_only gemm:16x64x512:w4a16-g128:bf16: random",
    ),
    (
        "triton/decoded_operand.py",
        "return self.tensor_scale.view(1, 1), (0, 0)",
        "return self.tensor_scale.view(1, 1) * 1.01, (0, 0)",
        "triton_decoded_gemm gemm:16x64x256:nvfp4:bf16: random",
    ),
    (
        "triton/gemm_grouped.py",
        "read = tl.minimum(tl.maximum(write // TOP_K, 0), a_rows - 1)",
        "read = tl.minimum(tl.maximum(write // TOP_K - 1, 0), a_rows - 1)",
        "triton_grouped_gemm grouped_gemm:4x512x64x256:e4m3-row:gathered.2:bf16: random",
    ),
    (
        "triton/gemm_batched.py",
        "b_scale_at = b_scale + z * stride_bs_z + h * stride_bs_h",
        "b_scale_at = b_scale + z * stride_bs_z",
        "triton_batched_gemm batched_gemm:8x64x64x256:int8-row:kn:bf16: random",
    ),
    (
        "triton/outlier_tile.py",
        "used = tl.minimum(tl.load(count), capacity)",
        "used = tl.minimum(tl.load(count), capacity) * 0",
        "triton_outlier_gemm gemm:64x64x256:llm-int8:bf16: random",
    ),
    (
        "triton/dequantize_tiles.py",
        "row = ((first_row + tl.arange(0, GRID_ROWS) * BLOCK_ROWS) // SCALE_ROWS)",
        "row = ((tl.arange(0, GRID_ROWS) * BLOCK_ROWS) // SCALE_ROWS)",
        "triton_dequantize dequantize:64x256:int8.b32x32:bf16: random",
    ),
    (
        "triton/transpose_codes.py",
        "target = out_ptr + (first_col * rows + first_row)",
        "target = out_ptr + (first_row * cols + first_col)",
        "triton_transpose transpose:64x256:e4m3fn: random",
    ),
    (
        "triton/quantize_tile.py",
        "ratio = x * inverse  #",
        "ratio = x * inverse * 2.0  #",
        "triton_quantize_tiles quantize:64x256:e4m3fn.mx:bf16: random",
    ),
    (
        "triton/quantize_tile.py",
        "ratio = quotient(x, divisor, negative, lift * UNITS, SHORT)",
        "ratio = quotient(x, divisor, negative, lift * UNITS, SHORT) * 1.01",
        "hopper_block_gemm gemm:512x64x256:jetfire:int8.b32x32: stand-in: random",
    ),
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    entries = (*ENTRIES, *ON_HOPPER, *ALONE)
    run = run_of(*(study(problem, family=family) for family, problem in entries))
    return emit(run, tmp_path_factory.mktemp("functions") / "kernels", name="tile_pack")


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A package of those entries alone that a fault is looked for in, with all the faults."""
    entries = [
        (family, problem)
        for family, problem in (*ENTRIES, *ON_HOPPER)
        if any(name.startswith(f"{family} {problem}: ") for *_, name in FAULTS)
    ]
    run = run_of(*(study(problem, family=family) for family, problem in entries))
    folder = emit(run, tmp_path / "kernels", name="tile_pack").folder
    for file, old, new, _ in FAULTS:
        path = folder / "src/tile_pack/kernels" / file
        text = path.read_text()
        assert old in text, file
        path.write_text(text.replace(old, new))
    reseal(folder)
    return folder


def _failed(report: VerifyReport) -> dict[str, str]:
    return {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED}


@pytest.mark.slow
def test_every_function_passes(package: EmittedPackage) -> None:
    report = verify(package.folder, device="cpu", seed=3)
    assert _failed(report) == {}
    outcomes = {check.name: check.status for check in report.checks}
    for family, problem in ENTRIES:
        for part in PARTS:
            assert outcomes[f"{family} {problem}: {part}"] is Outcome.PASSED, (problem, part)
    for family, problem in ON_HOPPER:
        for part in ("configuration", "launcher", "stand-in: configuration", "stand-in: random"):
            assert outcomes[f"{family} {problem}: {part}"] is Outcome.PASSED, (problem, part)
        assert outcomes[f"{family} {problem}: answers"] is Outcome.SKIPPED
    for family, problem in ALONE:
        for part in ("configuration", "launcher"):
            assert outcomes[f"{family} {problem}: {part}"] is Outcome.PASSED, (problem, part)
        assert outcomes[f"{family} {problem}: answers"] is Outcome.SKIPPED
    assert outcomes["pack_outliers llm-int8: nasty values"] is Outcome.PASSED
    opchecks = {name: found for name, found in outcomes.items() if name.endswith(": opcheck")}
    skipped = {name for name, found in opchecks.items() if found is Outcome.SKIPPED}
    assert skipped == {
        f"operator dataflow {' '.join(problem.split(':')[2:])}: opcheck" for _, problem in ALONE
    }
    assert set(opchecks.values()) == {Outcome.PASSED, Outcome.SKIPPED}
    for name in ("digests", "installed files", "templates", "independence", "light import"):
        assert outcomes[name] is Outcome.PASSED


@pytest.mark.slow
def test_a_fault_in_each_kernel_is_seen(spoiled: Path) -> None:
    report = verify(spoiled, device="cpu", seed=3)
    assert {name for *_, name in FAULTS} <= set(_failed(report))
