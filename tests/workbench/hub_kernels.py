"""A run and the Hugging Face kernel that is emitted from it."""

from pathlib import Path

from emit_runs import run_of, study

from workbench.emission.hub_kernel import EmittedKernel, write

QUANTIZE = "quantize:64x256:int8.b32x32:bf16"
MADE = (
    study("gemm:16x256x384:e4m3-row:bf16", time_us=9.0),
    study("gemm:512x256x384:e4m3-row:bf16"),
    study("gemm:16x256x384:deepseek-fp8:bf16"),
    study(QUANTIZE, family="triton_quantize"),
)
HOPPER = study("gemm:64x256x384:e4m3-row:bf16", family="hopper_gemm")


def emitted(folder: Path) -> EmittedKernel:
    """The kernel of all of these studies, written into a new folder."""
    return write(run_of(*MADE, HOPPER), folder, name="tile-gemm", repo_id="my-team/tile-gemm")
