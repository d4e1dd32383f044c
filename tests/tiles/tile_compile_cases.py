"""Run in a process of its own, without TRITON_INTERPRET: cross-compile for sm_90, print PTX facts.

Takes names of cases, prints one JSON object for each.
"""

import json
import re
import sys
from pathlib import Path

from tiles.kernels import kernel
from tiles.kernels.cubin import resources
from tiles.kernels.offline_triton import META, _compilations
from tiles.problems import parse_problem

CASES = {
    "quantize:4096x4096:e4m3fn.b1x128:bf16": ((8, 512), 4),
    "quantize:4096x4096:int8.b32x32:bf16": ((32, 128), 4),
    "quantize:4096x4096:e4m3fn.mx:bf16": ((8, 512), 4),
    "quantize:4096x4096:e2m1fn.mx:bf16:swizzled": ((8, 512), 4),
    "quantize:4096x4096:int8.b32x32+sr:bf16": ((32, 128), 4),
    "quantize:4096x4096:int8.b32x32:bf16:transposed": ((64, 64), 4),
    "quantize:4096x4096:e4m3fn.b32x32:bf16:transposed": ((64, 64), 4),
    "dequantize:4096x4096:e4m3fn.b1x128:bf16": ((8, 512), 4),
    "transpose:4096x4096:int8": ((128, 128), 4),
}
FAMILIES = {
    "quantize": "triton_quantize_tiles",
    "dequantize": "triton_dequantize",
    "transpose": "triton_transpose",
}


def lost_pairs(ptx: str) -> int:
    """Pairs of 8-bit floats that become the low half of a word and are used before by themselves.

    The assembler (ptxas 12.8, which Triton 3.6 and 3.7 bring) makes one instruction of both
    conversions of such a word.  What used the low pair before then reads some other value.
    """
    lost = 0
    cast: set[str] = set()
    used: set[str] = set()
    for line in ptx.splitlines():
        code = line.split("//")[0]
        converted = re.match(r"\s*cvt\.\S*(?:e4m3x2|e5m2x2)\.f32\s+(%rs\d+)", code)
        if converted:
            cast.add(converted[1])
            continue
        word = re.match(r"\s*mov\.b32\s+%r\d+, \{(%rs\d+), (%rs\d+)\}", code)
        lost += word is not None and cast.issuperset(word.groups()) and word[1] in used
        used.update(re.findall(r"%rs\d+", code))
    return lost


def main() -> None:
    for text in sys.argv[1:]:
        tile, warps = CASES[text]
        problem = parse_problem(text)
        family = kernel(FAMILIES[problem.kind])
        fields = {"block_rows": tile[0], "block_cols": tile[1], "num_warps": warps}
        if problem.kind != "transpose":
            fields |= {"software_cast": False}
        workload = family.workload(problem, device=META, seed=0)
        with _compilations(90) as found:
            workload.compile(family.config_type(**fields))
        ((_, metadata, group),) = found
        files = {Path(name).suffix: Path(path) for name, path in group.items()}
        ptx = files[".ptx"].read_text()
        usage = resources(files[".cubin"].read_bytes())
        facts = {
            "case": text,
            "wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)),
            "wide_stores": len(re.findall(r"st\.global\S*\.v4\.b32", ptx)),
            "byte_stores": len(re.findall(r"st\.global\S*\.b8", ptx)),
            "divisions": len(re.findall(r"div\.rn\.f32", ptx)),
            "lost_pairs": lost_pairs(ptx),
            "flushes": ptx.count(".ftz"),
            "smem_bytes": metadata["shared"],
            "registers": None if usage is None else usage.registers,
            "stack_bytes": None if usage is None else usage.stack_bytes,
        }
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
