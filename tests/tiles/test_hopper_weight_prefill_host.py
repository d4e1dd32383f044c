"""The Hopper weight-only product for many rows run on the CPU: indices, barriers and phases."""

import shutil
from typing import Any

import pytest
import torch
from hopper_weight_prefill_host import SOURCE, run
from weight_numbers import drawn

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

NAMES = ("block_m", "block_n", "stages", "cluster", "group_m", "store_buffers")


def check(
    shape: tuple[int, int, int],
    weight: str,
    kind: str,
    group: int,
    fields: tuple[int, ...],
    *,
    activation: torch.dtype = torch.bfloat16,
    out: str = "fp32",
    ctas: int = 2,
    landing: int = 16,
    text: str = "",
) -> None:
    """Scales are powers of two, so that folding them into the weights rounds nothing."""
    m, n, k = shape
    numbers = drawn(shape, weight, kind, group, activation, zeros=16)
    got = run(
        numbers.x,
        numbers.packed,
        out=out,
        config=dict(zip(NAMES, fields, strict=True)),
        ctas=ctas,
        seed=m + n + k,
        landing=landing,
        text=text,
    )
    numbers.check(got, out)


CASES: dict[str, tuple[Any, ...]] = {
    "tails of all, one row block a warpgroup": (
        ((70, 144, 392), "int4", "fp16", 128, (64, 128, 2, 1, 1, 1)), {},
    ),
    "two row blocks, tiles of 128 x 256": (
        ((140, 272, 264), "int4", "bf16", 128, (128, 256, 3, 1, 2, 2)), {"out": "bf16"},
    ),
    "rows that two stores have": (
        ((100, 144, 264), "uint4", "fp16", 32, (96, 128, 2, 1, 1, 2)), {"out": "bf16"},
    ),
    "two CTAs share X, one has no columns": (
        ((70, 288, 392), "int4", "fp16", 128, (64, 128, 2, 2, 2, 1)), {"out": "fp16", "ctas": 2},
    ),
    "mxfp4, wide": (
        ((200, 128, 256), "e2m1fn", "e8m0fnu", 32, (192, 128, 2, 1, 1, 1)), {"out": "bf16"},
    ),
    "fp16, nvfp4": (
        ((65, 128, 200), "e2m1fn", "e4m3fn", 16, (64, 128, 3, 1, 1, 1)),
        {"activation": torch.float16, "out": "fp16"},
    ),
    "one panel, several tiles a CTA": (
        ((200, 272, 100), "int4", "fp16", 128, (64, 128, 6, 1, 2, 2)), {"out": "bf16"},
    ),
    "an odd number of stages, three tiles a CTA": (
        ((300, 256, 712), "int4", "fp16", 128, (64, 128, 5, 2, 2, 1)),
        {"out": "bf16", "landing": 64},
    ),
    "int8, units of 32 columns": (
        ((70, 144, 200), "int8", "fp16", 128, (64, 128, 4, 1, 4, 1)), {"landing": 256},
    ),
    "e4m3fn, two row blocks": (
        ((65, 256, 136), "e4m3fn", "", 0, (64, 256, 2, 1, 1, 1)), {"out": "bf16"},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gives_the_product(case: str) -> None:
    arguments, more = CASES[case]
    check(*arguments, **more)


#: What a reader might forget, by the line that would be wrong.
MUTATIONS = {
    "a stage given up before its last product": ("wgmma_wait<1>();", "wgmma_wait<2>();"),
    "sums read too soon": ("            wgmma_wait<0>();\n", ""),
    "X multiplied before it is there": (
        "if (fresh && half > 0) barrier_wait(full_bar + stage * 8, phase);", "",
    ),
    "the next panel decoded before it is there": (
        "if (then == 0 && (panel + 1 < panels || index + more_tiles < tiles))\n"
        "                        barrier_wait(full_bar + stage * 8, phase);",
        "",
    ),
    "the phase of a ring's first stage": (
        "                        if (stage == 0) phase ^= 1;\n", "",
    ),
    "places for panels too few": ("STAGES / 2 + 1", "1"),
    "sums of the tile before": ("panel > 0 || half > 0", "index > 0 || panel > 0 || half > 0"),
    "a staging buffer written while it is stored": (
        "                    await_buffer(consumer, thread);\n", "",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_what_stands_in_for_the_gpu_sees_mistakes(name: str) -> None:
    before, after = MUTATIONS[name]
    text = SOURCE.read_text()
    assert before in text
    fields = (64, 128, 4 if "places" in name else 2, 1, 1, 1)
    landing = 2048 if name.startswith("X") else 64
    with pytest.raises(AssertionError):
        check(
            (140, 272, 632), "int4", "fp16", 128, fields,
            out="bf16", landing=landing, text=text.replace(before, after),
        )  # fmt: skip
