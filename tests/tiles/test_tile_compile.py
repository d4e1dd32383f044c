"""The one-pass tile kernels cross-compiled for sm_90."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from own_process import Outcomes, compiled
from tile_compile_cases import CASES

#: Stores of 16 bytes; none of codes that a thread has fewer than 16 bytes of.
WIDE_STORES = {
    "quantize:4096x4096:e4m3fn.b1x128:bf16": 2,
    "quantize:4096x4096:int8.b32x32:bf16": 2,
    "quantize:4096x4096:e4m3fn.mx:bf16": 2,
    "quantize:4096x4096:int8.b32x32+sr:bf16": 2,
    "quantize:4096x4096:int8.b32x32:bf16:transposed": 4,
    "quantize:4096x4096:e4m3fn.b32x32:bf16:transposed": 4,
}
QUICK = ("quantize:4096x4096:e4m3fn.b1x128:bf16", "transpose:4096x4096:int8")


OUTCOMES = Outcomes(CASES, QUICK, compiled("tile_compile_cases.py"))


@pytest.mark.parametrize("case", OUTCOMES.parameters())
def test_compiled_for_sm_90_moves_16_bytes_at_a_time_and_spills_nothing(case: str) -> None:
    found = OUTCOMES[case]
    assert found["flushes"] == 0
    assert found["lost_pairs"] == 0
    assert found["stack_bytes"] in (0, None)
    assert found["registers"] is None or found["registers"] <= 128
    # 32 elements a thread (codes of the transposition: 128) in loads of 16 bytes.
    assert found["wide_loads"] >= 2
    if case.startswith("quantize"):
        assert found["wide_loads"] == 4
        # One a block that a thread has part of, never one an element; exponents take none.
        assert found["divisions"] <= (0 if ".mx" in case else 4)
        assert found["wide_stores"] == WIDE_STORES.get(case, found["wide_stores"])
    else:
        assert found["wide_stores"] >= 4
        assert found["byte_stores"] == 0
