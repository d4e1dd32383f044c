"""Run in a process of its own, without TRITON_INTERPRET: what sm_90 gets of batches and groups.

Takes names of cases, prints a JSON line for each: compile facts, the estimate of shared memory, the
instructions in the PTX, and whether a layout changes inside the loop over K.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sim
from tiles.kernels import ConfigTable, TileConfig, kernel
from tiles.kernels.dense_view import dense_smem_bytes
from tiles.kernels.grouped_gemm import expert_gemm
from tiles.kernels.offline_triton import _compilations
from tiles.problems import BatchedGemm, GroupedGemm, parse_problem

H200 = sim.load_gpu("h200").limits
GROUPED = {
    "block_m": 64, "block_n": 128, "block_k": 128, "group_m": 1, "num_warps": 4, "num_stages": 3,
    "ctas_per_sm": 2, "tma": True,
}  # fmt: skip
BATCHED = {
    "block_m": 128, "block_n": 128, "block_k": 128, "group_m": 1, "num_warps": 8, "num_stages": 3,
    "tma": True,
}  # fmt: skip
EXPERTS = "grouped_gemm:256x32768x4096x7168"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "contiguous": (f"{EXPERTS}:deepseek-fp8:contiguous:bf16", {}),
    "three a multiprocessor": (
        f"{EXPERTS}:deepseek-fp8:contiguous:bf16",
        {"ctas_per_sm": 3, "num_stages": 2},
    ),
    "masked int8": (f"{EXPERTS}:int8-b1x128:masked.4096:bf16", {}),
    "gathered": (f"{EXPERTS}:deepseek-fp8:gathered.8:bf16", {}),
    "pointers": (f"{EXPERTS}:deepseek-fp8:contiguous:bf16", {"tma": False}),
    "bf16": (
        f"{EXPERTS}:bf16:padded.128:bf16",
        {"block_m": 128, "block_k": 64, "num_warps": 8, "num_stages": 4, "ctas_per_sm": 1},
    ),
    "decode": (
        "grouped_gemm:256x1024x4096x7168:deepseek-fp8:gathered.8:bf16",
        {"block_m": 16, "num_stages": 4},
    ),
    "QK": ("batched_gemm:128x4096x4096x128:e4m3-tensor:nk:bf16", {"num_stages": 2}),
    "PV bf16": ("batched_gemm:128x4096x128x4096:bf16:kn:bf16", {"block_k": 64}),
    "PV e4m3": ("batched_gemm:128x4096x128x4096:e4m3-tensor:kn:bf16", {}),
    "PV int8": ("batched_gemm:128x4096x128x4096:int8-row:kn:bf16", {}),
    "PV e4m3, V transposed": ("batched_gemm:128x4096x128x4096:e4m3-tensor:nk:bf16", {}),
}


def facts(text: str, changes: dict[str, Any]) -> dict[str, Any]:
    problem = parse_problem(text)
    grouped = isinstance(problem, GroupedGemm)
    family = kernel("triton_grouped_gemm" if grouped else "triton_batched_gemm")
    config = family.config_type.from_dict((GROUPED if grouped else BATCHED) | changes)
    assert isinstance(config, TileConfig)
    judged = family.judge(problem, config, H200)
    found = family.compile_offline(problem, config, H200)
    assert found is not None
    single = expert_gemm(problem) if isinstance(problem, GroupedGemm) else None
    if isinstance(problem, BatchedGemm):
        single = problem.single
    assert single is not None
    estimate = int(dense_smem_bytes(single, ConfigTable.of([config]))[0])
    with _compilations(90) as compiled:
        workload = family.workload(problem, device="meta", seed=0)
        workload.compile(config)
    ((_, _, group),) = compiled
    files = {Path(name).suffix: Path(path) for name, path in group.items()}
    ptx, loops = files[".ptx"].read_text(), files[".ttgir"].read_text().split("scf.for")
    inner = min((part for part in loops[1:] if "dot" in part), key=len).split("scf.yield")[0]
    counted = ("wgmma.mma_async", "cp.async.bulk.tensor", "cp.async.cg", "st.global.v4")
    return {
        **asdict(found),
        "legal": getattr(judged, "reason", ""),
        "estimate": estimate,
        "layout changes": inner.count("convert_layout"),
        **{name: ptx.count(name) for name in counted},
    }


def main() -> None:
    for name in sys.argv[1:]:
        print(json.dumps({"case": name, **facts(*CASES[name])}))


if __name__ == "__main__":
    main()
