"""The Hopper GEMM for few rows or tiles run on the CPU: every index, barrier and phase of it."""

import shutil
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hopper_host_cases import ROUNDING, draw, grids, spread
from hopper_skinny_host import SOURCE, run, source_text
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def e8m0(scale: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Powers of two as their bytes."""
    return (scale.view(np.uint32) >> 23).astype(np.uint8)


def check(shape: tuple[int, int, int], element: str, out: str, scales: str, **config: Any) -> None:
    m, n, k = shape
    rng = np.random.default_rng(m * n + k)
    a, b = draw(m, k, element, rng), draw(n, k, element, rng)
    a_value, b_value = a.astype(np.float64), b.astype(np.float64)
    pair: list[NDArray[np.float32] | None] = [None, None]
    if found := grids(m, n, k, scales):
        # Powers of two, so that scaled sums stay exact; no two neighbours alike.
        pair = [np.exp2(rng.integers(-3, 4, grid)).astype(np.float32) for grid in found]
        a_value = a_value * spread(pair[0].astype(np.float64), m, k)  # type: ignore[union-attr]
        b_value = b_value * spread(pair[1].astype(np.float64), n, k)  # type: ignore[union-attr]
    codes = {1: np.uint8, 2: np.uint16}[a.itemsize] if element not in ("int8", "fp16") else a.dtype
    c = run(
        a.view(codes),
        b.view(codes),
        *(e8m0(x) if scales == "mx" and x is not None else x for x in pair),
        element=element,
        out=out,
        scales=scales,
        config=config,
        seed=m + n + k,
    )
    got = c.view(ml_dtypes.bfloat16).astype(np.float64) if out == "bf16" else c.astype(np.float64)
    wanted = a_value @ b_value.T
    bad = np.abs(got - wanted) > ROUNDING[out] * np.abs(wanted) + ROUNDING["fp32"] * np.abs(
        a_value
    ) @ np.abs(b_value.T)
    assert not bad.any(), (np.argwhere(bad)[:5], got[bad][:5], wanted[bad][:5])


CASES: dict[str, tuple[Any, ...]] = {
    "one row of eight": ((1, 64, 328), "bf16", "bf16", "none", (8, 64, 3, 1, False)),
}
SLOW: dict[str, tuple[Any, ...]] = {
    "a split of K, tails everywhere": (
        (21, 100, 712), "e4m3fn", "fp32", "row", (16, 64, 2, 4, True),
    ),
    "promoted, two warpgroups": (
        (21, 131, 712), "int8", "bf16", "b1x128", (16, 128, 2, 2, False),
    ),
    "fp16": ((30, 72, 200), "fp16", "fp16", "none", (32, 64, 2, 2, False)),
    "fewer steps than CTAs": ((5, 70, 130), "bf16", "fp32", "none", (8, 64, 2, 8, False)),
    "fewer steps, interleaved": ((5, 70, 130), "bf16", "fp32", "none", (8, 64, 2, 8, True)),
    "one tensor scale": ((40, 66, 400), "e5m2", "fp32", "tensor", (48, 64, 2, 1, False)),
    "three warpgroups": ((180, 300, 256), "int8", "fp32", "row", (176, 192, 2, 1, False)),
    "four warpgroups": ((70, 260, 384), "bf16", "bf16", "none", (64, 256, 2, 2, True)),
    "96 rows, promoted": ((100, 140, 500), "e4m3fn", "fp32", "b1x128", (96, 128, 2, 2, True)),
    "128 rows, promoted in parts": (
        (130, 70, 700), "int8", "fp32", "b1x128", (128, 64, 3, 1, False),
    ),
    "128x128 both": ((130, 200, 1300), "int8", "fp32", "b128x128", (64, 128, 2, 8, False)),
    "more than 32 steps": ((3, 66, 4500), "e5m2", "fp32", "b1x128", (8, 64, 4, 1, False)),
    "more than 32 steps, both": ((3, 66, 4500), "int8", "fp32", "b128x128", (8, 64, 4, 1, True)),
    "rows beyond N": ((9, 130, 300), "e4m3fn", "bf16", "b1x128", (16, 256, 2, 1, False)),
    "the widest": ((300, 70, 130), "bf16", "bf16", "none", (256, 128, 2, 1, False)),
    "MX, a tail of every extent": (
        (13, 84, 400), "e4m3fn", "fp32", "mx", (16, 64, 2, 1, False),
    ),
    "MX, words, shared": ((30, 130, 1152), "e4m3fn", "fp32", "mx", (32, 128, 3, 2, True)),
    "MX, bytes, shared": ((9, 70, 1200), "e5m2", "bf16", "mx", (16, 64, 2, 8, False)),
    "MX, scales of four steps at once, from the third on": (
        (20, 70, 1536), "e4m3fn", "fp32", "mx", (32, 64, 3, 2, False),
    ),
    "MX, the same, interleaved": ((20, 70, 1536), "e5m2", "fp32", "mx", (32, 64, 2, 2, True)),
    "MX, fewer steps than CTAs": ((20, 70, 512), "e4m3fn", "fp32", "mx", (32, 64, 2, 8, False)),
    "MX, more steps than are fetched ahead": (
        (5, 66, 1808), "e4m3fn", "fp32", "mx", (8, 64, 4, 1, False),
    ),
    "MX, more of 16 bytes than are fetched ahead, from the third on": (
        (5, 66, 4608), "e4m3fn", "fp32", "mx", (8, 64, 3, 2, False),
    ),
    "MX, more words than are fetched ahead": (
        (5, 66, 2432), "e5m2", "fp32", "mx", (8, 64, 3, 1, False),
    ),
    "MX, more words, interleaved": ((5, 66, 4608), "e4m3fn", "fp32", "mx", (8, 64, 3, 2, True)),
    "MX, one step more than a group": ((5, 66, 1152), "int8", "fp32", "mx", (8, 64, 2, 1, False)),
    "MX, 48 rows": ((43, 70, 384), "e4m3fn", "fp32", "mx", (48, 64, 5, 1, False)),
    "MX, three warpgroups": ((64, 200, 640), "e4m3fn", "fp32", "mx", (64, 192, 2, 1, False)),
    "MX, integers": ((33, 200, 300), "int8", "fp32", "mx", (64, 64, 2, 2, False)),
    "MX, 96 rows": ((100, 70, 300), "e4m3fn", "fp32", "mx", (96, 64, 2, 1, False)),
    "MX, 128 rows": ((130, 140, 264), "e4m3fn", "fp32", "mx", (128, 128, 2, 2, False)),
    "192 rows": ((192, 136, 256), "e4m3fn", "fp16", "none", (192, 64, 2, 2, False)),
}  # fmt: skip


def _run(case: tuple[Any, ...]) -> None:
    shape, element, out, scales, fields = case
    names = ("block_m", "block_n", "stages", "cluster", "interleaved")
    check(shape, element, out, scales, **dict(zip(names, fields, strict=True)))


@pytest.mark.parametrize("case", CASES)
def test_gives_the_product(case: str) -> None:
    _run(CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_gives_the_product_slow(case: str) -> None:
    _run(SLOW[case])


@pytest.mark.slow
@pytest.mark.parametrize("k", [384, 400])
def test_mx_scales_that_are_no_plain_exponents(k: int) -> None:
    """2^-127, 2^103, and NaN, which makes its row or column NaN and nothing else."""
    rng = np.random.default_rng(k)
    a, b = (draw(rows, k, "e4m3fn", rng) for rows in (11, 70))
    codes = [rng.integers(120, 135, (rows, -(-k // 32))).astype(np.uint8) for rows in (11, 70)]
    codes[0][4], codes[1][5] = 0, 230
    values = [np.ldexp(1.0, x.astype(int) - 127) for x in codes]
    codes[0][7, 2] = codes[1][69, -1] = 255
    fields = {"block_m": 16, "block_n": 64, "stages": 2, "cluster": 1, "interleaved": False}
    c = run(
        a.view(np.uint8),
        b.view(np.uint8),
        *codes,
        element="e4m3fn",
        out="fp32",
        scales="mx",
        config=fields,
    )
    pairs = zip((a, b), values, strict=True)
    left, right = (x.astype(np.float64) * np.repeat(s, 32, 1)[:, :k] for x, s in pairs)
    wanted = left @ right.T
    wanted[7] = wanted[:, 69] = np.nan
    assert np.array_equal(np.isnan(c), np.isnan(wanted))
    assert np.nanmax(np.abs(c - wanted) / (np.abs(left) @ np.abs(right.T))) < 2.0**-20


#: What a reader might forget, by the line that would be wrong.
MUTATIONS = {
    "no wait for a tile": (
        "barrier_wait(full_bar + stage * 8, phase);\n        multiply(false);",
        "multiply(false);",
    ),
    "barriers that are not set up yet": ("        named_sync(READY, THREADS);\n", ""),
    "a stage given up too soon": ("wgmma_wait<1>();\n        if (i > 0) release(last);",
                                  "release(stage);\n        wgmma_wait<1>();"),
    "a phase that never turns": ("if (++stage == STAGES) stage = 0, phase ^= 1;", "stage = 0;"),
    "sums read before all are there": ("    if (CLUSTER > 1)\n        cluster_sync();\n    else\n"
                                       "        named_sync(STAGED, CONSUMERS);", ""),
    "the ring's place taken too soon": (
        "    named_sync(STAGED, CONSUMERS);\n    // wgmma leaves", "    // wgmma leaves",
    ),
    "a CTA that leaves while others read": (
        "cluster_sync_relaxed();\n            cluster_sync_relaxed();\n        }\n        return;",
        "cluster_sync_relaxed();\n        }\n        return;",
    ),
    "another swizzle": ("b + s * 2, a + s * 2,", "b + s * 4, a + s * 2,"),
    "another row of the accumulators": ("j / 2 % 2 * 8 + lane / 4", "j / 2 % 2 * 4 + lane / 4"),
}  # fmt: skip


#: The same of the warp that brings MX scales, and of those that read them.
MX_MUTATIONS = {
    "scales written to a stage in use": (
        "barrier_wait(empty_bar + written * 8, parity);",
        "if (lane == 0) barrier_wait(empty_bar + written * 8, parity);",
    ),
    "the first steps of a group that are another CTA's": ("if (i < 0) continue;", ""),
    "a group's words that are not taken over": ("scales.turn_over(taken);", ""),
    "a phase that never turns": ("if (next == 0) phase ^= 1;", ""),
    "a stage given up before its scales are read": (
        "fetch_across(EARLY, READS);", "release(stage);\n            fetch_across(EARLY, READS);",
    ),
}  # fmt: skip


def _mutated(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    import hopper_skinny_host

    monkeypatch.setattr(hopper_skinny_host, "source_text", lambda: text)
    monkeypatch.setattr(hopper_skinny_host, "program", hopper_skinny_host.program.__wrapped__)


@pytest.mark.slow
@pytest.mark.parametrize("name", MX_MUTATIONS)
def test_what_stands_in_for_the_gpu_sees_mistakes_with_mx_scales(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = MX_MUTATIONS[name]
    text = source_text()
    assert before in text
    _mutated(monkeypatch, text.replace(before, after))
    with pytest.raises(AssertionError):
        check((20, 100, 2560), "e4m3fn", "fp32", "mx", block_m=32, block_n=128, stages=2,
              cluster=2, interleaved=False)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_what_stands_in_for_the_gpu_sees_mistakes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = MUTATIONS[name]
    text = SOURCE.read_text()
    assert before in text
    text = text.replace(before, after)
    if "leaves" in name:  # its other threads as well
        text = text.replace("if (CLUSTER > 1) cluster_sync_relaxed();  // until", "// until")
    _mutated(monkeypatch, text)
    with pytest.raises(AssertionError):
        check((21, 100, 640), "bf16", "fp32", "none", block_m=16, block_n=128, stages=2,
              cluster=2, interleaved=False)  # fmt: skip
