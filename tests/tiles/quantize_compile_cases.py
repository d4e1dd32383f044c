"""Run in a process of its own, without TRITON_INTERPRET: cross-compile for sm_90, print PTX facts.

Prints one JSON object a case: its name and how often each kind of instruction occurs.
"""

import json
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tiles.kernels.triton import quantize_blocks

TILES = {"TILE_ROWS": 32, "TILE_COLS": 128}
CASES = {
    "b1x128": (quantize_blocks._quantize_tiles, "*fp8e4nv", {"BLOCK_ROWS": 1, "BLOCK_COLS": 128}),
    "b32x32": (quantize_blocks._quantize_tiles, "*i8", {"BLOCK_ROWS": 32, "BLOCK_COLS": 32}),
    "row": (
        quantize_blocks._quantize_regions,
        "*fp8e5",
        {"PER_ROW": True, "ONE_TILE": True, "STAGES": 1},
    ),
}
CODE_MAX = {"*i8": 127.0, "*fp8e4nv": 448.0, "*fp8e5": 57344.0}


def main() -> None:
    pointers = {"x_ptr": "*bf16", "scales_ptr": "*fp32"}
    for name, (kernel, codes, constants) in CASES.items():
        fixed = constants | TILES | {"CODE_MAX": CODE_MAX[codes], "SOFTWARE": False}
        names = kernel.arg_names
        signature = {
            n: "constexpr" if n in fixed else (pointers | {"codes_ptr": codes}).get(n, "i32")
            for n in names
        }
        # What a launch with aligned tensors and extents of multiples of 16 specialises on.
        multiples = ("rows", "cols", "region_rows", "region_cols")
        aligned = [i for i, n in enumerate(names) if n.endswith("_ptr") or n in multiples]
        source = ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(names.index(n),): value for n, value in fixed.items()},
            attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
        )
        compiled = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}
        )
        ptx = compiled.asm["ptx"]
        facts = {
            "case": name,
            "wide_loads": len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)),
            "wide_stores": len(re.findall(r"st\.global\S*\.v4\.b32", ptx)),
            "divisions": len(re.findall(r"div\.rn\.f32", ptx)),
            "casts": len(re.findall(r"cvt\.rn\.satfinite\.e[45]m[23]x2\.f32", ptx)),
            "flushes": ptx.count(".ftz"),
            "smem_bytes": compiled.metadata.shared,
        }
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
