"""The Hopper GEMM's promoted products run on the CPU: every index, barrier and phase of them."""

import shutil
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hopper_gemm_host import run, source_text
from hopper_host_cases import ROUNDING, draw, grids, spread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]

FIELDS = ("block_n", "stages", "group_m", "store_buffers", "chained")


def outcome(
    shape: tuple[int, int, int],
    element: str,
    out: str,
    scales: str,
    fields: tuple[Any, ...],
    *,
    ctas: int = 2,
    text: str = "",
    block_m: int = 128,
) -> str:
    """What is wrong with the product; empty where nothing is."""
    m, n, k = shape
    rng = np.random.default_rng(m * n + k)
    a, b = draw(m, k, element, rng), draw(n, k, element, rng)
    found = grids(m, n, k, scales)
    assert found is not None
    # Powers of two, so that scaled sums stay exact; no two neighbours alike.
    pair = [np.exp2(rng.integers(-3, 4, grid)).astype(np.float32) for grid in found]
    a_value = a.astype(np.float64) * spread(pair[0].astype(np.float64), m, k)
    b_value = b.astype(np.float64) * spread(pair[1].astype(np.float64), n, k)
    codes = a.dtype if element == "int8" else np.uint8
    config = {"block_m": block_m, "cluster": 1, "pingpong": False}
    c, complaint = run(
        a.view(codes),
        b.view(codes),
        *pair,
        element=element,
        out=out,
        scales=scales,
        config=config | dict(zip(FIELDS, fields, strict=True)),
        ctas=ctas,
        seed=m + n + k,
        text=text,
    )
    if complaint:
        return complaint
    got = c.view(ml_dtypes.bfloat16).astype(np.float64) if out == "bf16" else c.astype(np.float64)
    wanted = a_value @ b_value.T
    most = ROUNDING[out] * np.abs(wanted) + ROUNDING["fp32"] * np.abs(a_value) @ np.abs(b_value.T)
    bad = ~(np.abs(got - wanted) <= most)
    return f"{bad.sum()} of {bad.size}, first {np.argwhere(bad)[0]}" if bad.any() else ""


CASES: dict[str, tuple[Any, ...]] = {
    "one step": ((130, 136, 72), "int8", "bf16", "b1x128", (64, 2, 1, 2, True)),
    # Every place of a tile among B's blocks, and a tile under three of them.
    "192 columns": ((100, 392, 264), "e4m3fn", "bf16", "b1x128", (192, 2, 1, 2, True)),
    "176 columns": ((100, 536, 256), "e5m2", "fp32", "b1x128", (176, 3, 1, 2, True)),
    # Scales of A and of B are fetched for 32 steps at a time.
    "66 steps": ((20, 56, 8328), "e4m3fn", "fp32", "b128x128", (64, 3, 1, 1, True)),
    "160 columns": ((140, 328, 136), "int8", "fp32", "b128x128", (160, 2, 2, 1, True)),
    "rows by rows": ((300, 136, 392), "e4m3fn", "fp32", "b1x128_b1x128", (64, 3, 1, 2, True), 256),
    "rows by rows, 112": ((140, 328, 72), "e5m2", "bf16", "b1x128_b1x128", (112, 2, 2, 1, True)),
    # Nothing promoted; the last store of a tile takes columns that the one before has, too.
    "one scale, 176 columns": ((140, 360, 264), "e4m3fn", "bf16", "tensor", (176, 3, 1, 2, False)),
    "one scale, 208 columns": ((130, 424, 136), "int8", "fp32", "tensor", (208, 2, 2, 1, False)),
    "one scale, 240 columns": ((70, 248, 392), "e5m2", "bf16", "tensor", (240, 2, 1, 1, False)),
}


@pytest.mark.parametrize("case", CASES)
def test_gives_the_product(case: str) -> None:
    shape, element, out, scales, fields, *rows = CASES[case]
    block_m = rows[0] if rows else 128
    assert outcome(shape, element, out, scales, fields, block_m=block_m) == ""


def test_ctas_without_a_tile_end() -> None:
    assert outcome(*CASES["one step"], ctas=12) == ""


ROWS = CASES["rows by rows"]
SMALL = ((100, 136, 264), "e4m3fn", "fp32", "b1x128", (64, 2, 1, 1, True))
WAIT = "wgmma_wait<0>();\n                    pin"
#: Faults of the text that a run has to show, and where.
FAULTS = {
    "a chain that stops between tiles": ("more || step + 1 < steps", "step + 1 < steps", SMALL),
    "a stage given back while it is read": (WAIT, "pin", SMALL),
    "a turn kept": ("if (there) turn_pass(1 - consumer);", "", SMALL),
    "a turn that nobody waits for": ("if (there) turn_wait(consumer);", "", SMALL),
    "a turn that nobody takes": ("if (any && consumer == 0) turn_wait(0);", "", SMALL),
    "rows of the next 64": ("{load_shared(row), ", "{load_shared(row - t * 4), ", ROWS),
    "one block for all columns": ("left % QUANT);", "0);", CASES["192 columns"]),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_text_shows(fault: str) -> None:
    before, after, case = FAULTS[fault]
    text = source_text()
    assert text.count(before) == 1
    shape, element, out, scales, fields, *rows = case
    changed = text.replace(before, after)
    block_m = rows[0] if rows else 128
    assert outcome(shape, element, out, scales, fields, text=changed, block_m=block_m) != ""
