"""The Triton quantisation without a GPU: interpreted, cross-compiled, and what it refuses."""

import json
from typing import Any

import pytest
import torch
from own_process import lines_of

from tiles.kernels.triton import quantize_blocks

CONFIG = {
    "block_rows": 4,
    "block_cols": 128,
    "num_warps": 4,
    "num_stages": 1,
    "software_cast": False,
}


def test_interpreted_kernel_equals_the_torch_twin_bit_for_bit() -> None:
    *differences, cases = lines_of("quantize_interpreter_cases.py", interpret=True)
    assert differences == []
    assert int(cases) >= 35


def test_compiled_for_sm_90_moves_16_bytes_at_a_time() -> None:
    facts = [json.loads(line) for line in lines_of("quantize_compile_cases.py")]
    assert [f["case"] for f in facts] == ["b1x128", "b32x32", "row"]
    for case in facts:
        # 32 bf16 elements a thread: four 16-byte loads, two 16-byte stores of codes.
        assert case["wide_loads"] == 4, case
        assert case["wide_stores"] == 2, case
        assert case["flushes"] == 0, case
        # Divisions are per block, not per element.
        assert case["divisions"] <= 8, case
        assert case["smem_bytes"] <= 1024, case
    assert [f["casts"] > 0 for f in facts] == [True, False, True]


X = torch.zeros(4, 256, dtype=torch.bfloat16)
GOOD: dict[str, Any] = {
    "x": X,
    "codes": torch.zeros(4, 256, dtype=torch.int8),
    "scales": torch.zeros(4, 2),
    "block": (1, 128),
    "config": CONFIG,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X.double()}, TypeError, "x has dtype torch.float64: it must be bfloat16"),
        ({"x": X.t().contiguous().t()}, ValueError, "it must be contiguous"),
        ({"x": X[0]}, ValueError, "it must be a non-empty matrix"),
        ({"codes": torch.zeros(4, 256)}, TypeError, "codes have dtype torch.float32"),
        ({"codes": torch.zeros(4, 128, dtype=torch.int8)}, ValueError, "codes have shape"),
        ({"scales": torch.zeros(4, 3)}, ValueError, r"need \(4, 2\)"),
        ({"scales": torch.zeros(4, 2, dtype=torch.half)}, TypeError, "they must be float32"),
        ({"block": (-1, 128)}, ValueError, "0 for the whole extent"),
        ({"config": CONFIG | {"stage": 1}}, ValueError, "wrong or missing field 'stage'"),
        ({"config": CONFIG | {"num_stages": 0}}, ValueError, "num_stages = 0"),
        ({"config": CONFIG | {"block_rows": 3}}, ValueError, "block_rows = 3: it must be a power"),
        ({"config": CONFIG | {"block_cols": 64}}, ValueError, "neither consists of whole 1x128"),
        (
            {"codes": X.view(torch.int8)[:, :256].contiguous().as_strided((4, 256), (0, 1))},
            ValueError,
            "it must be contiguous",
        ),
        (
            {"codes": X.view(torch.int8).view(-1)[:1024].view(4, 256)},
            ValueError,
            "codes overlaps x",
        ),
        ({"scales": X.view(torch.float32)[:, :2]}, ValueError, "scales overlaps x"),
        ({"scales": torch.zeros(1, 2).expand(4, 2)}, ValueError, "its elements overlap"),
        ({"scales": torch.zeros(4, 2, device="meta")}, ValueError, "must share one device"),
    ],
)
def test_launch_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace(".", r"\.")):
        quantize_blocks.launch(**(GOOD | change))
