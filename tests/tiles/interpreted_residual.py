"""Add to a stream under Triton's interpreter; prints which cases differ from torch or the codec."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import residual_tiles

SEED = 0x9E3779B97F4A7C15


def differs(
    dtype: torch.dtype, shape: tuple[int, int], seed: int | None, coded: bool, outputs: int
) -> bool:
    """Of a sum alone (0 outputs besides), with codes (1), with their transpose too (2)."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(*shape, generator=generator).to(dtype) for _ in range(2))
    x[:32, :32] = y[:32, :32] = 0
    x[40, 50] = float("nan")
    other, values, y_scales = y, y.float(), None
    if coded:
        codes = quantize_tensor(y, TensorFormat.parse("int8.b32x32"))
        other, y_scales, values = codes.codes, codes.scales, codes.dequantize(torch.float32)
    wanted = (x.float() + values).to(dtype)
    fmt = TensorFormat.parse("int8.b32x32" if seed is None else "int8.b32x32+sr")
    expected = quantize_tensor(wanted, fmt, seed=seed or 0)
    assert expected.scales is not None
    total = torch.zeros_like(x)
    made: list[torch.Tensor] = []
    if outputs:
        made += [torch.zeros(shape, dtype=torch.int8), torch.zeros_like(expected.scales)]
    if outputs > 1:
        made += [one.t().contiguous() for one in made]
    with exact_interpreter():
        residual_tiles.launch(x, other, total, y_scales, *made, block=32, seed=seed)
    same = torch.equal(total.nan_to_num(7), wanted.nan_to_num(7))
    return not (same and same_codes(made, expected))


def same_codes(made: list[torch.Tensor], expected: QuantizedTensor) -> bool:
    assert expected.scales is not None
    pairs = zip(made, (expected.codes, expected.scales) * 2, strict=False)
    for at, (one, wanted) in enumerate(pairs):
        other = wanted if at < 2 else wanted.t()
        if not torch.equal(one.float().nan_to_num(-1), other.float().nan_to_num(-1)):
            return False
    return True


if __name__ == "__main__":
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ((64, 128), (48, 80)):
            for seed, outputs in ((None, 0), (None, 1), (SEED, 1), (SEED, 2)):
                for coded in (False, True):
                    if differs(dtype, shape, seed, coded, outputs):
                        print(dtype, shape, seed, coded, outputs)
    print("done")
