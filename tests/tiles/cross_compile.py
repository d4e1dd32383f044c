"""Compile the scaled GEMM for a GPU that is not there."""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_workload import launch_block
from tiles.kernels.triton import gemm_arguments, gemm_scaled
from tiles.problems import Gemm

_TYPES = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
    "e4m3fn": "fp8e4nv",
    "e5m2": "fp8e5",
    "int8": "i8",
}


def compile_gemm(problem: Gemm, config: GemmConfig, capability: int, decode: bool = False) -> Any:
    """What a launch on aligned operands would compile: sizes and addresses divisible by 16."""
    fields = config.to_dict()
    a_type, b_type = (
        fmt.element.name for fmt in (problem.recipe.activation, problem.recipe.weight)
    )
    a_block, b_block = launch_block(problem.recipe.activation), launch_block(problem.recipe.weight)
    constants = gemm_arguments.constants(
        config=fields,
        k=problem.k,
        a_block=a_block,
        b_block=b_block,
        a_type=a_type,
        b_type=b_type,
        out_type=problem.out,
        decode=decode,
        interpreted=False,
    )
    stored = "u8" if decode and a_type in ("e4m3fn", "e5m2") else _TYPES[a_type]
    c_type = _TYPES[problem.out]
    operands = {"a": f"*{stored}", "b": f"*{stored}", "c": f"*{c_type}"}
    if config.tma and not config.specialize:
        operands["a"] = f"tensordesc<{stored}[{config.block_m}, {config.block_k}]>"
        operands["b"] = f"tensordesc<{stored}[{config.block_n}, {config.block_k}]>"
        if "SUBTILES" in constants:
            cols = config.block_n // constants["SUBTILES"]
            operands["c"] = f"tensordesc<{c_type}[{config.block_m}, {cols}]>"
    whole = stored == "i8" and not (a_block and a_block[1])
    operands |= {"a_scale": "*fp32", "b_scale": "*fp32", "arrived": "*i32"}
    operands["partial"] = "*i32" if whole else "*fp32"
    kernel = gemm_scaled.kernel_of(fields)
    names = kernel.arg_names
    runtime = names[: names.index("A_SCALED")]
    signature = {name: operands.get(name, "i32") for name in runtime}
    ones = {"stride_bs_k"} if b_block and b_block[1] else set()
    ones |= {"stride_as_m"} if a_block and a_block[0] == 1 else set()
    values = {**constants, **dict.fromkeys(ones, 1)}
    signature |= dict.fromkeys(values, "constexpr")
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(runtime)
        # The columns of a weight scale grid are few: no multiple of 16.
        if not signature[name].startswith(("tensordesc", "constexpr")) and name != "stride_bs_n"
    }
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in values.items()},
        attrs=attributes,
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )


def registers_and_stack(compiled: Any) -> tuple[int, int]:
    """Registers a thread and bytes of stack (spills) of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "gemm.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        listing = subprocess.run(
            [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True
        ).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", listing)
    assert match is not None, listing
    return int(match[1]), int(match[2])
