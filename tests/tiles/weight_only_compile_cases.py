"""Run in a process of its own, without TRITON_INTERPRET: weight-only products compiled for sm_90.

Takes names of cases, prints one JSON object for each: facts of the binary, and how often
instructions occur in its PTX.
"""

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

from wgmma_order import left_running

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.offline_triton import META, _compilations, facts_of
from tiles.kernels.weight_only import WeightOnlyConfig
from tiles.kernels.weight_only_resources import smem_bytes
from tiles.kernels.weight_only_workload import WeightOnlyWorkload
from tiles.problems import Gemm
from tiles.recipes import Recipe

DECODE = WeightOnlyConfig(
    block_m=8,
    block_n=64,
    group_m=1,
    split_k=4,
    num_warps=4,
    num_stages=4,
    tma=False,
    fold=False,
)
WIDE = replace(DECODE, block_m=32, block_n=128)
PREFILL = replace(DECODE, block_m=128, block_n=128, group_m=8, split_k=1, num_warps=8)
CASES = {
    "decode": (8, "int4.g128", DECODE),
    "decode zero points": (8, "uint4.g128", replace(DECODE, num_warps=2)),
    "decode int8": (8, "int8.row", DECODE),
    "decode mxfp4": (8, "e2m1fn.mx", replace(DECODE, fold=True)),
    "decode nvfp4": (8, "nvfp4", replace(DECODE, fold=True)),
    "wgmma decode": (32, "int4.g128", WIDE),
    # Staging the fp32 sums of a share takes more than the pipeline.
    "wgmma split": (
        64,
        "int8.row",
        replace(WIDE, block_m=64, block_n=256, num_stages=3, num_warps=8),
    ),
    "prefill": (4096, "int4.g128", PREFILL),
    "prefill tma": (4096, "int4.g128", replace(PREFILL, tma=True)),
    "prefill folded": (4096, "int4.g128", replace(PREFILL, block_n=256, fold=True, num_stages=3)),
    "prefill nvfp4": (4096, "nvfp4", replace(PREFILL, fold=True, num_stages=3)),
    "prefill e4m3fn": (4096, "e4m3fn.row", PREFILL),
}


def main() -> None:
    limits = load_gpu("h200").limits
    for name in sys.argv[1:]:
        m, weight, config = CASES[name]
        pair = Recipe.of("pair", activation="bf16", weight=weight, source="a test")
        problem = Gemm(m=m, n=4096, k=4096, recipe=pair)
        workload = WeightOnlyWorkload(problem, device=META, seed=0)
        with _compilations(limits.capability) as found:
            workload.compile(config)
        files = {Path(file).suffix: Path(path) for file, path in found[-1][2].items()}
        facts = facts_of(lambda w=workload, c=config: w.compile(c), limits)
        ptx, ttgir = files[".ptx"].read_text(), files[".ttgir"].read_text()
        loop = ttgir.split("scf.for", 1)[1].split("scf.yield", 1)[0]
        estimate = int(smem_bytes(problem, ConfigTable.of([config]), limits.capability)[0])
        record = {
            "case": name,
            "facts": None if facts is None else asdict(facts),
            "estimated_smem_bytes": estimate,
            # Decoded weights that leave registers again would be allocated in the loop.
            "stored_again": loop.count("ttg.local_alloc"),
            "left_running": left_running(ptx),
            "wide_copies": len(re.findall(r"cp\.async\.cg\.shared\.global.*0x10", ptx)),
            "tma_copies": ptx.count("cp.async.bulk.tensor"),
            "wide_shared_loads": ptx.count("ld.shared.v4.b32"),
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
