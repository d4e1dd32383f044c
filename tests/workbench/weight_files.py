"""Checkpoints for the tests, made on the spot, and the verb that reads them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&[red]\x1b[2J\u202e"

#: Candidates, and the one of them that keeps each layer of :func:`known_checkpoint`.
FORMATS = ("e4m3fn.tensor", "int8.row", "int8.b32x32")
BEST = {
    "layers.1.floats.weight": "e4m3fn.tensor",
    "layers.2.rows.weight": "int8.row",
    "layers.10.blocks.weight": "int8.b32x32",
}


def normal(rows: int, cols: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.standard_normal((rows, cols), dtype=np.float32))


def known_checkpoint(path: Path) -> Path:
    """Layers of which one format of :data:`FORMATS` keeps every value, and what is no weight."""
    random = np.random.default_rng(7)
    codes = torch.from_numpy(random.integers(-126, 127, (64, 64)).astype(np.float32))
    blocks = codes.clone()
    blocks[::32, ::32] = 127  # every block's amax
    blocks[:32, :32] *= 2**-6
    blocks[32:, 32:] *= 2**9
    rows = codes.clone()
    rows[:, 5] = 127
    rows *= torch.from_numpy(2.0 ** random.integers(-9, 9, (64, 1))).float()
    floats = torch.from_numpy(random.integers(0, 0x7F, (64, 64)).astype(np.uint8))
    floats[3, 3] = 0x7E  # 448: the tensor's scale is 1
    tensors = {
        "layers.10.blocks.weight": blocks,
        "layers.2.rows.weight": rows.to(torch.bfloat16),
        "layers.1.floats.weight": floats.view(torch.float8_e4m3fn),
        "layers.1.norm.weight": torch.ones(64),
        "layers.1.zero.weight": torch.zeros(8, 8),
        "step": torch.tensor(3),
        "ids": torch.arange(6).reshape(2, 3),
        "nothing.weight": torch.zeros(0, 4),
    }
    save_file(tensors, path)
    return path


def write_raw(path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"") -> Path:
    """A file of a header as it stands, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}
