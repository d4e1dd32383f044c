"""Times every tuned product of the package against ``torch.matmul`` in bfloat16; needs a GPU.

Medians of launches after an L2 flush (``triton.testing.do_bench``); operands are quantised already.
"""

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton.testing

PROJECT = Path(__file__).resolve().parent.parent
NAME = next(path.name for path in (PROJECT / "src").iterdir() if (path / "EVIDENCE.json").exists())


def _operand(rows: int, cols: int, element: str, block: Any) -> Any:
    dtypes = importlib.import_module(f"{NAME}._torch_device").DTYPES
    plain = torch.randn(rows, cols, device="cuda")
    codes = (plain * 40).clamp(-127, 127) if element == "int8" else plain
    if block is None:
        return codes.to(dtypes[element]), None
    grid = (-(-rows // block[0]) if block[0] else 1, -(-cols // block[1]) if block[1] else 1)
    return codes.to(dtypes[element]), torch.rand(grid, device="cuda") + 0.5


def _median_us(launch: Any) -> float:
    return float(triton.testing.do_bench(launch, return_mode="median")) * 1e3


def main() -> None:
    """Print a Markdown table, one row a tuned product."""
    package = importlib.import_module(NAME)
    installed = Path(str(package.__file__)).with_name("EVIDENCE.json")
    if installed.read_bytes() != (PROJECT / "EVIDENCE.json").read_bytes():
        sys.exit(
            f"{installed.parent} is not this project's: pip install --force-reinstall dist/*.whl"
        )
    dtypes = importlib.import_module(f"{NAME}._torch_device").DTYPES
    # Of functions other than gemm nothing is timed here: verification does that.
    products = importlib.import_module(f"{NAME}._lookup").layouts("triton_gemm")
    products = products if hasattr(package, "gemm") else {}
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}\n"
    )
    heads = ("recipe", "M N K", "kernel", "this package, us", "torch.matmul bf16, us", "TFLOP/s")
    print("| " + " | ".join((*heads, "speed-up")) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for path in sorted((PROJECT / "src" / NAME / "configs").glob("*_gemm-*.json")):
        file = json.loads(path.read_text(encoding="utf-8"))
        if file["extents"] is None or tuple(file["formats"]) not in products:
            continue
        recipe, out = file["formats"]
        layout = file["layout"]
        n, k = file["extents"]
        b, b_scale = _operand(n, k, layout["b_element"], layout["b_block"])
        weight = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        for entry in file["entries"]:
            m = entry["m"]
            a, a_scale = _operand(m, k, layout["a_element"], layout["a_block"])
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            c = torch.empty(m, n, device="cuda", dtype=dtypes[out])

            ours = partial(package.gemm, a, b, a_scale, b_scale, recipe=recipe, out_dtype=c.dtype)
            own_us = _median_us(partial(ours, out=c))
            rival_us = _median_us(partial(torch.matmul, x, weight.T))
            rate = 2 * m * n * k / own_us / 1e6
            print(
                f"| {recipe} | {m} {n} {k} | {file['kernel']} | {own_us:.1f} | {rival_us:.1f} "
                f"| {rate:.0f} | {rival_us / own_us:.2f} |"
            )


if __name__ == "__main__":
    main()
