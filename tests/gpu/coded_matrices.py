"""Matrices in codes, and the twin that the kernels are held to."""

import torch

from tiles.formats import TensorFormat
from workbench.nn import (
    Codes,
    ReferenceBackend,
)

FORMATS = ["int8.b32x32", "int8.b64x64", "int8.b128x128"]
TWIN = ReferenceBackend()
SEED = 0x9E3779B97F4A7C15
ROWS, COLS = 512, 1024


def drawn(fmt: str, seed: int, rows: int = ROWS, cols: int = COLS) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    return TWIN.quantize(torch.randn(rows, cols, generator=generator), TensorFormat.parse(fmt))
