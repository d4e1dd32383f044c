"""Run in a process of its own, without TRITON_INTERPRET: facts of configurations, as JSON lines."""

import json
import sys

from cross_compile import compile_gemm, registers_and_stack

import sim
from tiles.kernels import kernel
from tiles.kernels.gemm import GemmConfig
from tiles.problems import Gemm, parse_problem

GEMM = {
    "block_m": 128, "block_n": 128, "block_k": 64, "group_m": 8, "num_warps": 8, "num_stages": 3,
    "tma": True, "persistent": False,
}  # fmt: skip
CASES = {
    "wgmma": ("h200", "triton_gemm", "gemm:4096x4096x4096:bf16:bf16", GEMM),
    "small tile": (
        "h200",
        "triton_gemm",
        "gemm:16x4096x4096:e4m3-row:bf16",
        GEMM | {"block_m": 16, "block_n": 64, "block_k": 128, "num_warps": 4, "num_stages": 4},
    ),
    "ampere decodes": (
        "a100",
        "triton_gemm",
        "gemm:4096x4096x4096:e4m3-tensor:bf16",
        GEMM | {"tma": False},
    ),
    "too large": (
        "h200",
        "triton_gemm",
        "gemm:4096x4096x4096:bf16:bf16",
        GEMM | {"block_n": 256, "block_k": 128, "num_stages": 4},
    ),
    "tensor scale, two kernels": (
        "h200",
        "triton_quantize",
        "quantize:4096x4096:e4m3fn.tensor:bf16",
        {
            "block_rows": 8, "block_cols": 512, "num_warps": 4, "num_stages": 1,
            "software_cast": False,
        },
    ),
    "cuda": (
        "h200",
        "cuda_quantize",
        "quantize:4096x4096:e4m3fn.b1x128:bf16",
        {"threads": 256, "lanes": 16, "vector": 8, "unroll": 2},
    ),
}  # fmt: skip


def main(names: list[str]) -> None:
    for name in names:
        gpu, family_name, text, fields = CASES[name]
        limits, family, problem = sim.load_gpu(gpu).limits, kernel(family_name), parse_problem(text)
        config = family.config_type.from_dict(fields)
        facts = family.compile_offline(problem, config, limits)
        # A second time from memory and the disk cache: nobody must go unheard.
        assert family.compile_offline(problem, config, limits) == facts
        assert facts is not None
        line = {"case": name, "refusal": facts.refusal(limits), **facts.to_dict()}
        if isinstance(problem, Gemm) and isinstance(config, GemmConfig):
            decode = name == "ampere decodes"
            compiled = compile_gemm(problem, config, limits.capability, decode=decode)
            line["direct"] = [compiled.metadata.shared, *registers_and_stack(compiled)]
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
