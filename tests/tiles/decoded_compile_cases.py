"""Run in a process of its own, without TRITON_INTERPRET: decoded products compiled without a GPU.

Prints one JSON object for each kernel of a case: facts of the binary, and how often instructions
occur in its PTX.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

from wgmma_order import left_running

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.cubin import mma_kind, resources
from tiles.kernels.decoded_gemm import DecodedGemmConfig
from tiles.kernels.decoded_resources import loop_smem_bytes, native_smem_bytes
from tiles.kernels.decoded_workload import DecodedGemmWorkload
from tiles.kernels.offline_triton import META, _compilations
from tiles.problems import Gemm
from tiles.recipes import Recipe

LOOP = DecodedGemmConfig(
    block_m=128,
    block_n=128,
    block_k=64,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=False,
    persistent=False,
    staged=False,
    native=False,
)
STAGED = replace(LOOP, block_n=256, staged=True, tma=True, persistent=True)
NATIVE = replace(LOOP, block_k=128, native=True)
FEW = replace(LOOP, block_m=16, block_n=64, group_m=1, num_warps=4, num_stages=4)
CASES = {
    "mxfp8": ("e4m3fn.mx", "e4m3fn.mx", LOOP, "h200"),
    "mxfp8 wide": ("e4m3fn.mx", "e4m3fn.mx", replace(LOOP, block_n=256), "h200"),
    "mixed fp8": ("e4m3fn.tensor", "e3m4fn.row", LOOP, "h200"),
    "mxfp6 by mxfp4": ("e3m2fn.mx", "e2m1fn.mx", LOOP, "h200"),
    "nvfp4": ("nvfp4", "nvfp4", LOOP, "h200"),
    "mxint8": ("mxint8.mx", "mxint8.mx", LOOP, "h200"),
    "posit8": ("posit8es1", "posit8es1", LOOP, "h200"),
    "mxfp8 by bf16": ("e4m3fn.mx", "bf16", LOOP, "h200"),
    "few rows": ("e4m3fn.mx", "e4m3fn.mx", FEW, "h200"),
    "staged mxfp8": ("e4m3fn.mx", "e4m3fn.mx", STAGED, "h200"),
    "staged mxfp6 by nvfp4": ("e3m2fn.mx", "e2m1fn.mx", STAGED, "h200"),
    "ampere": ("e4m3fn.mx", "e3m2fn.mx", LOOP, "a100"),
    "blackwell": ("e4m3fn.mx", "e2m1fn.mx", LOOP, "b200"),
    "native mxfp8": ("e4m3fn.mx", "e5m2.mx", NATIVE, "b200"),
    "native mxfp4": ("e2m1fn.mx", "e2m1fn.mx", NATIVE, "b200"),
    "native nvfp4": ("nvfp4", "e2m1fn.b16x16+e4m3fn+two-level", NATIVE, "b200"),
    "native mixed": ("e4m3fn.mx", "e2m1fn.mx", replace(NATIVE, num_warps=4), "b200"),
}


def main() -> None:
    for name, (activation, weight, config, gpu) in CASES.items():
        limits = load_gpu(gpu).limits
        pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
        problem = Gemm(m=4096, n=4096, k=4096, recipe=pair)
        workload = DecodedGemmWorkload(problem, device=META, seed=0, num_sms=132)
        with _compilations(limits.capability) as found:
            workload.compile(config)
        table = ConfigTable.of([config])
        if config.native:
            estimate = int(native_smem_bytes(problem, table)[0])
        else:
            estimate = int(loop_smem_bytes(problem, table, limits.capability)[0])
        for src, metadata, group in found:
            files = {Path(file).suffix: Path(path) for file, path in group.items()}
            ptx, ttgir = files[".ptx"].read_text(), files[".ttgir"].read_text()
            usage = resources(files[".cubin"].read_bytes())
            loop = ttgir.split("scf.for", 1)[-1].split("scf.yield", 1)[0]
            record = {
                "case": name,
                "kernel": src.fn.__name__,
                "registers": None if usage is None else usage.registers,
                "stack_bytes": None if usage is None else usage.stack_bytes,
                "smem_bytes": metadata["shared"],
                "estimated_smem_bytes": estimate,
                "kind": "".join(re.findall(r"tcgen05\.mma\.cta_group::1\.kind::(\w+)", ptx)[:1]),
                "mma": mma_kind(ptx),
                "copies_in_loop": loop.count("async_copy_global_to_local"),
                # Loads of codes that found no place in the pipeline, beside those of scales.
                "loads_in_loop": loop.count("tt.load"),
                "left_running": left_running(ptx),
                "wide_copies": len(re.findall(r"cp\.async\.cg\.shared\.global.*0x10", ptx)),
                "tma_copies": ptx.count("cp.async.bulk.tensor"),
                "wide_loads": len(re.findall(r"ld\.global\.v4\.b32", ptx)),
                "wide_stores": len(re.findall(r"st\.global\.v4\.b32", ptx)),
            }
            print(json.dumps(record))


if __name__ == "__main__":
    main()
