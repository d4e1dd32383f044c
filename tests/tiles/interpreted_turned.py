"""Quantise transposes under Triton's interpreter; prints which cases differ from the codec."""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import turned_tiles

if __name__ == "__main__":
    for dtype in (torch.bfloat16, torch.float32):
        for shape in ((64, 128), (48, 80)):
            x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
            x[:32, :32] = 0
            x[40, 50] = float("nan")
            wanted = quantize_tensor(x.t().contiguous(), TensorFormat.parse("int8.b32x32"))
            assert wanted.scales is not None
            codes = torch.zeros(shape[::-1], dtype=torch.int8)
            scales = torch.zeros_like(wanted.scales)
            config = {"block_rows": 64, "block_cols": 32, "num_warps": 4, "software_cast": False}
            with exact_interpreter():
                turned_tiles.launch(x, codes, scales, block=32, config=config)
            same = torch.equal(codes, wanted.codes)
            same &= torch.equal(scales.nan_to_num(-1), wanted.scales.nan_to_num(-1))
            print("" if same else f"{dtype} {shape}", end="")
    print("done")
