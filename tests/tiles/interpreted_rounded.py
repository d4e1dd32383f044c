"""Quantise and round under Triton's interpreter; prints which cases differ from the codec."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import rounded_tiles

if __name__ == "__main__":
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ((64, 128), (48, 80)):
            x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            x[:32, :32] = 0
            x[40, 50] = float("nan")
            wanted = quantize_tensor(x, TensorFormat.parse("int8.b32x32"))
            assert wanted.scales is not None
            codes, scales = torch.zeros(shape, dtype=torch.int8), torch.zeros_like(wanted.scales)
            out = torch.zeros(shape, dtype=torch.bfloat16)
            with exact_interpreter():
                rounded_tiles.launch(x, codes, scales, out, block=32)
            same = torch.equal(codes, wanted.codes)
            same &= torch.equal(scales.nan_to_num(-1), wanted.scales.nan_to_num(-1))
            numbers = wanted.dequantize().bfloat16()
            same &= torch.equal(out.nan_to_num(-1), numbers.nan_to_num(-1))
            print("" if same else f"{dtype} {shape}\n", end="")
    print("done")
