"""Run in a process of its own, without TRITON_INTERPRET: products for GPUs that are not there.

Prints one JSON object for each case: the target, shared memory, and the product instructions of the
assembly.  AMD's targets are compiled to machine code by Triton's own LLVM.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from sim import load_gpu
from tiles.kernels import Limits
from tiles.kernels.decoded_gemm import DecodedGemmConfig, TritonDecodedGemm
from tiles.kernels.decoded_workload import DecodedGemmWorkload
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_workload import GemmWorkload
from tiles.kernels.offline_triton import META
from tiles.kernels.triton import decoded_arguments
from tiles.problems import Gemm
from tiles.recipes import recipe

SMALL = GemmConfig(
    block_m=64,
    block_n=64,
    block_k=64,
    group_m=1,
    num_warps=4,
    num_stages=2,
    tma=False,
    persistent=False,
)
#: GPU and recipe: what is native there and was compiled by no other test.
CASES = (
    ("rtx3090", "int8-row"),
    ("l40s", "e4m3-row"),
    ("b300", "mxfp4"),
    ("mi300x", "bf16"),
    ("mi355x", "e4m3-row"),
    ("mi355x", "mxfp8-e4m3"),
    ("mi355x", "mxfp4"),
)
INSTRUCTIONS = re.compile(
    r"v_mfma_\w+|tcgen05\.mma\.cta_group::1\.kind::\w+|mma\.sync\.aligned[\w.]+"
)


class _AbsentGpu:
    """What Triton asks its driver for before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


@contextmanager
def compiled_for(limits: Limits) -> Iterator[list[tuple[Any, dict[str, Any], dict[str, str]]]]:
    """Kernels that Triton compiles for the GPU within the context: function, metadata, files."""
    amd = limits.vendor == "amd"
    target = GPUTarget(
        "hip" if amd else "cuda",
        f"gfx{limits.capability}" if amd else limits.capability,
        limits.warp_threads,
    )
    found: list[tuple[Any, dict[str, Any], dict[str, str]]] = []

    def note(
        *, src: Any, metadata: dict[str, Any], metadata_group: dict[str, str], **rest: Any
    ) -> None:
        found.append((src.fn, metadata, metadata_group))

    before, listener = driver._active, knobs.compilation.listener
    driver.set_active(_AbsentGpu(target))
    knobs.compilation.listener = note
    try:
        yield found
    finally:
        driver._active, knobs.compilation.listener = before, listener
        for function, *_ in found:
            function.device_caches.clear()  # they hold the target that is gone


def compile_case(limits: Limits, name: str) -> None:
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe(name))
    family = TritonDecodedGemm()
    if family.refusal(problem, limits) is not None:
        GemmWorkload(problem, device=META, seed=0, decode=False, num_sms=1).compile(SMALL)
        return
    config = family.default(problem, limits)
    assert isinstance(config, DecodedGemmConfig)
    tile = {"block_m": 128, "block_n": 64, "block_k": 128, "num_stages": 2, "num_warps": 4}
    native = replace(
        config, **tile, tma=False, persistent=False, staged=False, native=True, group_m=1
    )
    # A capability is asked of NVIDIA's targets alone; products of codes as stored need none.
    with patch.object(decoded_arguments, "capability_of", lambda device: limits.capability):
        DecodedGemmWorkload(problem, device=META, seed=0, num_sms=1).compile(native)


def main() -> None:
    for gpu, name in CASES:
        limits = load_gpu(gpu).limits
        with compiled_for(limits) as found:
            compile_case(limits, name)
        ((kernel, metadata, group),) = found
        files = {Path(file).suffix: Path(path) for file, path in group.items()}
        text = files[".amdgcn" if limits.vendor == "amd" else ".ptx"].read_text()
        record = {
            "gpu": gpu,
            "recipe": name,
            "kernel": kernel.__name__,
            "smem_bytes": metadata["shared"],
            "instructions": sorted(set(INSTRUCTIONS.findall(text))),
            "binary": ".hsaco" in files or ".cubin" in files,
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
