"""Run activations' gradients under Triton's interpreter and print how far codes and scales are off.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.
"""

import json

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.dataflow_reference import Inputs, outcome
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import activation_tiles

SEED = 0x9E3779B97F4A7C15


def worst(op: str, seed: int | None, shape: tuple[int, int], side: int) -> list[float]:
    """Largest distance of codes, share of codes that differ, largest relative error of scales."""
    generator = torch.Generator().manual_seed(1)
    plain = f"int8.b{side}x{side}"
    x = quantize_tensor(2 * torch.randn(*shape, generator=generator), TensorFormat.parse(plain))
    dy = torch.randn(*shape, generator=generator).bfloat16()
    inputs = Inputs(x=x.dequantize(torch.float64), other=dy.double())
    values = outcome(f"{op}-bwd", inputs).values.float()
    out = TensorFormat.parse(plain if seed is None else f"{plain}+sr")
    wanted = quantize_tensor(values, out, seed=seed or 0)
    assert x.scales is not None
    assert wanted.scales is not None
    codes, scales = torch.zeros(shape, dtype=torch.int8), torch.zeros_like(wanted.scales)
    with exact_interpreter():
        activation_tiles.launch(
            x.codes, x.scales, dy, codes, scales, op=op, block=side, seed=seed, num_warps=4
        )
    apart = (codes.int() - wanted.codes.int()).abs()
    off = ((scales - wanted.scales) / wanted.scales).abs().max()
    return [float(apart.max()), float((apart > 0).double().mean()), float(off)]


if __name__ == "__main__":
    cases = {
        f"{op} {rounding} {shape}": worst(op, SEED if rounding else None, shape, 32)
        for op in activation_tiles.OPS
        for rounding in ("", "+sr")
        for shape in ((64, 96), (40, 80))
    }
    print(json.dumps(cases))
