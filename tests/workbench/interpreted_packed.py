"""Run under TRITON_INTERPRET: packed codes beside the twin's, and a layer on both; prints JSON.

Arguments: recipes.  Output: for each what differs, a list of names.
"""

import json
import sys

import torch
from torch import nn

from bench.train_gpt.packed_backend import PackedBackend, packs
from sim import load_gpu
from workbench.nn import ReferenceBackend, convert, training_runtime
from workbench.nn.cuda_backend import CudaBackend

CPU = torch.device("cpu")
LIMITS = load_gpu("h200").limits
TWIN = ReferenceBackend()


def drawn(rows: int, cols: int, seed: int) -> torch.Tensor:
    """Numbers with a block of zeros, an outlier and some that are tiny."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    x[0, :32] = 0.0
    x[1, 5] = 300.0
    x[2] *= 1e-6
    return x


def codes(recipe: str) -> list[str]:
    run = training_runtime(recipe)
    backend, wrong = PackedBackend(CPU, limits=LIMITS), []
    formats = dict.fromkeys((run.recipe.activation, run.recipe.weight, run.recipe.gradient))
    for fmt in formats:
        for dtype in (torch.bfloat16, torch.float32):
            x = drawn(64, 128, 1).to(dtype)
            found = backend.quantize(x, fmt, seed=7)
            expected = TWIN.quantize(x, fmt, seed=7)
            for out in (torch.bfloat16, torch.float32):
                if not torch.equal(backend.dequantize(found, out), expected.dequantize(out)):
                    wrong.append(f"{fmt} of {dtype} to {out}")
            if found.shape != (64, 128):
                wrong.append(f"shape of {fmt}: {found.shape}")
            if packs(fmt) and found.stored_bytes >= expected.stored_bytes:
                wrong.append(f"{fmt} is not packed")
        if "+sr" in str(fmt):
            continue
        both = backend.quantize_directions(x, fmt)
        turned = TWIN.quantize(x.t(), fmt).dequantize(torch.bfloat16)
        if both.turned is None or not torch.equal(
            backend.dequantize(both.turned, torch.bfloat16), turned
        ):
            wrong.append(f"{fmt} turned")
    return wrong


def layer(recipe: str) -> list[str]:
    results = []
    for kind in (CudaBackend, PackedBackend):
        torch.manual_seed(0)
        backend = kind(CPU, limits=LIMITS)
        linear = convert(nn.Linear(128, 64), recipe, backend=backend, seed=5).model
        x = drawn(64, 128, 2).to(torch.bfloat16).requires_grad_()
        y = linear(x)
        y.backward(drawn(64, 64, 3).to(torch.bfloat16))
        with torch.no_grad():
            again = linear(x)
        found = {"y": y.detach(), "again": again, "dx": x.grad}
        results.append(found | {"dw": linear.weight.grad, "db": linear.bias.grad})
    expected, found = results
    return [name for name, value in expected.items() if not torch.equal(value, found[name])]


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps({recipe: codes(recipe) + layer(recipe) for recipe in sys.argv[1:]}))


main()
