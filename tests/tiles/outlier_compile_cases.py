"""Run in a process of its own, without TRITON_INTERPRET: products with outliers apart, compiled.

Prints one JSON object a case: facts of the binary, and what its two loops do.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.cubin import mma_kind, resources
from tiles.kernels.gemm_smem import smem_bytes
from tiles.kernels.offline_triton import META, _compilations
from tiles.kernels.outlier_gemm import OutlierGemmConfig, inner_problem, inner_table
from tiles.kernels.outlier_workload import OutlierGemmWorkload
from tiles.problems import Gemm
from tiles.recipes import recipe

COLUMNS = OutlierGemmConfig(
    block_m=128,
    block_n=256,
    block_k=128,
    outlier_k=16,
    group_m=8,
    num_warps=8,
    num_stages=4,
    tma=True,
)
BLOCKS = replace(COLUMNS, block_n=128, outlier_k=128)
PLAIN = replace(BLOCKS, num_stages=3, tma=False)
CASES = {
    "columns": ("llm-int8", COLUMNS, "h200"),
    "blocks": ("int8-fallback", BLOCKS, "h200"),
    "blocks without descriptors": ("int8-fallback", PLAIN, "h200"),
    "columns, ampere": ("llm-int8", replace(PLAIN, outlier_k=64), "a100"),
}


def main() -> None:
    for name, (named, config, gpu) in CASES.items():
        limits = load_gpu(gpu).limits
        problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe(named), out="fp16")
        workload = OutlierGemmWorkload(problem, device=META, seed=0)
        with _compilations(limits.capability) as found:
            workload.compile(config)
        ((_, metadata, group),) = found
        files = {Path(file).suffix: Path(path) for file, path in group.items()}
        ptx, ttgir = files[".ptx"].read_text(), files[".ttgir"].read_text()
        usage = resources(files[".cubin"].read_bytes())
        bodies = [part.split("scf.yield", 1)[0] for part in ttgir.split("scf.for")[1:]]
        estimate = smem_bytes(inner_problem(problem), inner_table(ConfigTable.of([config])))
        record = {
            "case": name,
            "registers": None if usage is None else usage.registers,
            "stack_bytes": None if usage is None else usage.stack_bytes,
            "smem_bytes": metadata["shared"],
            "estimated_smem_bytes": int(estimate[0]),
            "mma": mma_kind(ptx),
            # Of each loop: products, and copies that run ahead of them.
            "products": [len(re.findall(r"tt\.dot|warp_group_dot ", body)) for body in bodies],
            "copies": [
                body.count("async_copy_global_to_local") + body.count("async_tma_copy")
                for body in bodies
            ],
            "narrow_copies": len(re.findall(r"cp\.async\.ca", ptx)),
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
