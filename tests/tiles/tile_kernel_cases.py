"""Run in a process of its own with TRITON_INTERPRET=1: the tile kernels against the codec.

Prints one line a case that differs, and the number of cases last.  ``Workload.check`` poisons
outputs and compares them bit for bit with the torch twin of the NumPy codec.
"""

import sys

import torch
from nasty_matrices import nasty

from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.dequantize import TritonDequantizeConfig
from tiles.kernels.dequantize_workload import DequantizeWorkload
from tiles.kernels.quantize_tiles import TritonQuantizeTilesConfig
from tiles.kernels.quantize_tiles_workload import QuantizeTilesWorkload
from tiles.kernels.transpose import TritonTransposeConfig
from tiles.kernels.transpose_workload import TransposeWorkload
from tiles.kernels.triton import dequantize_tiles
from tiles.problems import parse_problem

#: Problem (behind its kind) and tile; shapes that tiles cover, and ragged ones.
NEAREST = (
    ("20x72:int8.b32x32:bf16", (32, 64)),
    ("20x72:int8.b32x32+fp16:fp32", (32, 64)),
    ("21x93:int8.b4x16+bf16+pow2:fp16", (8, 64)),
    ("16x128:e4m3fn.b1x128:bf16", (8, 128)),
    ("18x70:e5m2.b1x32:fp32", (8, 64)),
    ("21x93:e4m3fn.row:fp16", (8, 128)),
    ("20x96:e2m3fn.b4x32:bf16", (8, 64)),
    ("21x93:int4.g32:bf16", (8, 64)),
    ("16x96:int4.g32:fp32", (8, 32)),
)
EXPONENTS = (
    ("20x96:e4m3fn.mx:bf16", (8, 64)),
    ("20x96:e5m2.mx+rceil:fp32", (8, 64)),
    ("20x96:e3m2fn.mx+even:fp16", (8, 64)),
    ("21x90:e2m3fn.mx+ceil:bf16", (8, 32)),
    ("16x64:e2m1fn.mx:bf16", (8, 64)),
    ("21x93:e2m1fn.mx+even:fp32", (8, 64)),
    ("20x96:mxint8.mx+rceil:bf16", (8, 64)),
    ("20x96:nvfp4:bf16", (8, 64)),
    ("21x93:nvfp4:fp32", (8, 32)),
    ("140x150:e4m3fn.mx:bf16:swizzled", (64, 64)),
    ("40x97:nvfp4:fp16:swizzled", (64, 64)),
)
STOCHASTIC = (
    ("20x96:int8.b4x32+sr:bf16", (8, 64)),
    ("21x93:int8.b1x32+sr:fp32", (8, 64)),
    ("20x96:e4m3fn.b1x32+sr:fp16", (8, 64)),
    ("21x93:e5m2.b4x32+sr:bf16", (8, 64)),
    ("20x96:e2m1fn.mx+sr:bf16", (8, 64)),
    ("20x96:mxint8.mx+sr:fp32", (8, 64)),
    ("20x96:nvfp4+sr:bf16", (8, 64)),
)
TRANSPOSED = (
    ("40x96:int8.b32x32:bf16:transposed", (32, 64)),
    ("33x93:int8.b32x32+sr:fp32:transposed", (32, 32)),
    ("40x93:e4m3fn.b1x32:bf16:transposed", (32, 64)),
    ("40x96:e2m1fn.mx:bf16:transposed:swizzled", (32, 64)),
    ("40x96:int8.b1x32+sr:fp16:transposed", (32, 64)),
    ("21x93:nvfp4:bf16:transposed", (16, 32)),
    ("33x70:e2m1fn.b16x16+e4m3fn+two-level:bf16:transposed:swizzled", (32, 64)),
)
#: One scale for the tensor, which a NaN would poison as a whole: finite numbers.
TENSOR = (
    ("21x93:int8.tensor:bf16", (8, 64)),
    ("21x93:e5m2.tensor+sr:fp32", (8, 64)),
    ("21x96:int8.tensor:fp16:transposed", (16, 64)),
)
DEQUANTIZED = (
    ("20x96:int8.b32x32:bf16", (8, 64)),
    ("21x93:e4m3fn.b1x32:fp16", (16, 32)),
    ("21x93:e5m2.row:fp32", (8, 64)),
    ("20x96:mxint8.mx:bf16", (8, 64)),
    ("20x96:e3m2fn.mx:bf16", (8, 64)),
    ("21x93:e2m3fn.mx+rceil:fp32", (8, 64)),
    ("16x64:e2m1fn.mx:bf16", (8, 64)),
    ("21x93:nvfp4:bf16", (8, 64)),
    ("21x93:int4.g32:fp16", (8, 64)),
    ("20x96:int8.tensor:fp32", (8, 64)),
)


def check_quantize(text: str, tile: tuple[int, int], finite: bool) -> str:
    problem = parse_problem(f"quantize:{text}")
    workload = QuantizeTilesWorkload(problem, device="cpu", seed=2**63 + 5)
    if not finite:
        workload._drawn = nasty(*problem.shape, problem.source)
    config = TritonQuantizeTilesConfig(
        block_rows=tile[0], block_cols=tile[1], num_warps=4, software_cast=False
    )
    return workload.check(config).reason


def check_smallest(text: str) -> str:
    """The smallest bf16, whose scales have few bits: many a block's largest is beyond its code."""
    problem = parse_problem(f"quantize:{text}")
    workload = QuantizeTilesWorkload(problem, device="cpu", seed=2**63 + 5)
    sizes = torch.arange(1, problem.shape[0] + 1) * 2.0**-133
    signs = torch.tensor([1.0, -1.0]).repeat(problem.shape[1] // 2)
    workload._drawn = (sizes[:, None] * signs).to(torch.bfloat16)
    workload._drawn[3, 5] = torch.nan
    config = TritonQuantizeTilesConfig(
        block_rows=8, block_cols=64, num_warps=4, software_cast=False
    )
    return workload.check(config).reason


def check_dequantize(text: str, tile: tuple[int, int]) -> str:
    problem = parse_problem(f"dequantize:{text}")
    workload = DequantizeWorkload(problem, device="cpu", seed=3)
    if problem.source.scaling.rows is not None and problem.out != "fp16":
        workload._quantized = quantize_tensor(nasty(*problem.shape, "bf16"), problem.source)
    config = TritonDequantizeConfig(
        block_rows=tile[0], block_cols=tile[1], num_warps=4, software_cast=False
    )
    return workload.check(config).reason


def check_poor_answers_fail() -> str:
    """A spoilt reference is found, so that a right answer means something."""
    problem = parse_problem("quantize:8x64:e2m1fn.mx:bf16")
    workload = QuantizeTilesWorkload(problem, device="cpu", seed=0)
    workload._reference.scales[3, 1] ^= 1
    config = TritonQuantizeTilesConfig(
        block_rows=8, block_cols=64, num_warps=1, software_cast=False
    )
    reason = workload.check(config).reason
    return "" if "scales[3, 1]" in reason and "1 differ" in reason else f"passes: {reason}"


#: Of fp32 scales, rounded at random and to nearest.
SMALLEST = (
    ("20x96:int8.b1x32+sr:bf16", (8, 64)),
    ("20x96:int4.g32+sr:bf16", (8, 64)),
    ("20x96:int8.b1x32:bf16", (8, 64)),
)
GROUPS = {
    "smallest": SMALLEST,
    "nearest": NEAREST,
    "exponents": EXPONENTS,
    "stochastic": STOCHASTIC,
    "transposed": TRANSPOSED,
    "tensor": TENSOR,
    "dequantized": DEQUANTIZED,
}
#: Of every group each fifth case is in the sample, the others in the group's own run.
STEP = 5


def check(group: str, text: str, tile: tuple[int, int]) -> str:
    if group == "smallest":
        return check_smallest(text)
    if group == "dequantized":
        return check_dequantize(text, tile)
    return check_quantize(text, tile, finite=group == "tensor")


def check_foreign_scales() -> str:
    """Every e4m3fn pattern as a block scale: other packers store zeros, subnormals and signs."""
    codes = torch.randint(0, 256, (32, 64), dtype=torch.uint8)
    scales = torch.arange(256, dtype=torch.uint8).view(32, 8)
    outer, out = torch.tensor([0.5]), torch.empty(32, 128)
    config = {"block_rows": 8, "block_cols": 64, "num_warps": 4, "software_cast": False}
    dequantize_tiles.launch(
        codes, scales, out, element="e2m1fn", block=(1, 16), stored="e4m3fn", tensor_scale=outer,
        config=config,
    )  # fmt: skip
    sizes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    nibbles = torch.stack((codes & 15, codes >> 4), dim=2).view(32, 128).int()
    values = torch.where(nibbles > 7, -sizes[nibbles & 7], sizes[nibbles & 7])
    factors = scales.view(torch.float8_e4m3fn).float().repeat_interleave(16, 1)
    wanted = values * factors * 0.5
    return "" if torch.equal(out.nan_to_num(77), wanted.nan_to_num(77)) else "foreign scales"


def check_transposition() -> list[str]:
    workload = TransposeWorkload(parse_problem("transpose:45x70:e5m2"), device="cpu", seed=1)
    configs = [
        TritonTransposeConfig(block_rows=rows, block_cols=cols, num_warps=1)
        for rows, cols in ((32, 32), (64, 128))
    ]
    return [workload.check(config).reason for config in configs]


def main() -> None:
    chosen: list[tuple[str, tuple[str, tuple[int, int]]]] = []
    for name in sys.argv[1:]:
        for group in GROUPS if name == "sample" else [name]:
            cases = enumerate(GROUPS[group])
            wanted = name == "sample"
            chosen += [(group, case) for i, case in cases if (i % STEP == 0) is wanted]
    told = [
        f"{group} {case}: {reason}" for group, case in chosen if (reason := check(group, *case))
    ]
    count = len(chosen)
    if "sample" in sys.argv:
        others = [*check_transposition(), check_poor_answers_fail(), check_foreign_scales()]
        told += filter(None, others)
        count += len(others)
    print(*told, count, sep="\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
