"""Matrices that catch what quantisation kernels get wrong."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def nasty(rows: int, cols: int, source: str) -> torch.Tensor:
    """Zero blocks, subnormals, ties, an outlier, NaN, infinity and -0 among random numbers."""
    generator = torch.Generator().manual_seed(rows * 1000 + cols)
    x = torch.randn(rows, cols, generator=generator)
    x *= 2.0 ** torch.randint(-6, 6, (rows, cols), generator=generator)
    x[: rows // 3, : cols // 3] = 0
    x[rows // 2 :, cols // 2 :] *= {"fp32": 1e-43, "bf16": 1e-38, "fp16": 1e-7}[source]
    x[1, : cols // 2] = torch.arange(cols // 2) - 63.5
    x[rows - 2, cols // 4] = 3e4
    x[rows // 2, 1], x[0, cols - 1], x[rows - 1, cols // 2] = torch.nan, torch.inf, -0.0
    return x.to(DTYPES[source])
