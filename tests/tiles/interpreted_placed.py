"""Quantise matrices part by part under Triton's interpreter; prints which differ from the codec."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import placed_tiles

SEED = 0x9E3779B97F4A7C15


def differs(dtype: torch.dtype, shape: tuple[int, int], seed: int | None, both: bool) -> bool:
    """Of four parts, cut at row 32 and at column 64."""
    rows, cols = shape
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:32, :32] = 0
    x[40, 50] = float("nan")
    fmt = TensorFormat.parse("int8.b32x32" if seed is None else "int8.b32x32+sr")
    wanted = quantize_tensor(x, fmt, seed=seed or 0)
    assert wanted.scales is not None
    made = [torch.zeros(shape, dtype=torch.int8), torch.zeros_like(wanted.scales)]
    if both:
        turned = torch.zeros(cols, rows, dtype=torch.int8)
        made += [turned, torch.zeros_like(wanted.scales.t().contiguous())]
    with exact_interpreter():
        for down in (slice(0, 32), slice(32, rows)):
            for across in (slice(0, 64), slice(64, cols)):
                placed_tiles.launch(
                    x[down, across].contiguous(), *made, place=(down.start, across.start),
                    block=32, seed=seed,
                )  # fmt: skip
    same = torch.equal(made[0], wanted.codes)
    same &= torch.equal(made[1].nan_to_num(-1), wanted.scales.nan_to_num(-1))
    if both:
        same &= torch.equal(made[2], made[0].t())
        same &= torch.equal(made[3].nan_to_num(-1), made[1].t().nan_to_num(-1))
    return not same


if __name__ == "__main__":
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ((96, 128), (48, 80)):
            for seed in (None, SEED):
                for both in (False, True):
                    if differs(dtype, shape, seed, both):
                        print(dtype, shape, seed, both)
    print("done")
