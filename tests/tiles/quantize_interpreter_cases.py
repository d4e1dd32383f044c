"""Run in a process of its own with TRITON_INTERPRET=1: the Triton kernel against the torch twin.

The variable is read when ``@triton.jit`` decorates, so a test process cannot switch it on later.
Prints one line a case that differs, and the number of cases last.
"""

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels import ConfigTable
from tiles.kernels.quantize import TritonQuantizeConfig
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.quantize_torch import quantize_torch
from tiles.kernels.quantize_workload import QuantizeWorkload
from tiles.kernels.triton import quantize_blocks
from tiles.problems import parse_problem

#: scaling -> tiles (rows, cols): whole blocks, one block, steps through a block.
TILES = {
    "tensor": ((4, 64),),
    "row": ((8, 64), (4, 512)),
    "b1x128": ((4, 256), (1, 64)),
    "b32x32": ((32, 64), (16, 32)),
    "b128x128": ((128, 128), (64, 128)),
    "b16x8": ((32, 32), (8, 8)),
    "b6x40": ((8, 64), (4, 32)),
}
SHAPES = ((5, 150), (18, 66))


def operand(rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    """Zeros, subnormals, ties, NaN, infinity and -0 among random numbers."""
    generator = torch.Generator().manual_seed(rows * 1000 + cols)
    x = torch.randn(rows, cols, generator=generator)
    x[: rows // 3, : cols // 3] = 0
    x[rows // 2 :, cols // 2 :] *= 1e-43 if dtype == torch.float32 else 1e-7
    x[1, : cols // 2] = torch.arange(cols // 2) - 63.5
    x[rows // 2, 1], x[0, cols - 1], x[rows - 1, cols // 2] = torch.nan, torch.inf, -0.0
    return x.to(dtype)


def run(text: str, target: str, shape: tuple[int, int], dtype: torch.dtype) -> int:
    fmt = TensorFormat.parse(f"{target}.{text}")
    assert fmt.scaling is not None
    x = operand(*shape, dtype)
    wanted_codes, wanted_scales = quantize_torch(x, fmt)
    assert wanted_scales is not None
    for rows, cols in TILES[text]:
        codes = torch.full(shape, 0x55, dtype=torch.uint8).view(CODE_DTYPES[target])
        scales = empty_scales(*shape, fmt.scaling, "cpu")
        config = TritonQuantizeConfig(
            block_rows=rows,
            block_cols=cols,
            num_warps=4,
            num_stages=1,
            software_cast=target != "int8",
        )
        with exact_interpreter():
            quantize_blocks.launch(
                x,
                codes,
                scales,
                block=(fmt.scaling.rows or 0, fmt.scaling.cols or 0),
                config=config.to_dict(),
            )
        wrong = int((codes.view(torch.uint8) != wanted_codes.view(torch.uint8)).sum())
        unequal = int((~torch.isclose(scales, wanted_scales, 0.0, 0.0, equal_nan=True)).sum())
        if wrong or unequal:
            print(
                f"{fmt} {dtype} {shape} tile {rows}x{cols}: {wrong} codes, {unequal} scales differ"
            )
    return len(TILES[text])


def check_workload() -> int:
    """The workload finds its own default right, and a spoilt reference wrong."""
    problem = parse_problem("quantize:40x200:e4m3fn.b1x128:bf16")
    workload = QuantizeWorkload(problem, device="cpu", seed=0)
    config = ConfigTable.product(
        TritonQuantizeConfig,
        block_rows=[8],
        block_cols=[128],
        num_warps=[4],
        num_stages=[1],
        software_cast=[False],
    ).config(0)
    good = workload.check(config)
    workload._reference[1][3, 1] *= 2
    bad = workload.check(config)
    if not good.ok or good.max_error_over_bound != 0:
        print(f"a right answer is refused: {good.reason}")
    if bad.ok or "scale[3, 1]" not in bad.reason or "1 differ" not in bad.reason:
        print(f"a wrong scale passes: {bad.reason}")
    return 2


def main() -> None:
    cases = check_workload()
    for number, text in enumerate(TILES):
        for offset, target in enumerate(("int8", "e4m3fn", "e5m2")):
            # Every scaling with every target, sources and shapes taken in turn.
            dtype = (torch.float32, torch.bfloat16, torch.float16)[(number + offset) % 3]
            shape = (130, 129) if text == "b128x128" else SHAPES[(number + offset) % 2]
            cases += run(text, target, shape, dtype)
    print(cases)


if __name__ == "__main__":
    main()
