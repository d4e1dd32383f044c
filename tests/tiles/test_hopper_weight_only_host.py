"""The Hopper weight-only product run on the CPU: every index, barrier and phase of it."""

import shutil
from typing import Any

import pytest
import torch
from hopper_weight_only_host import SOURCE, run
from weight_numbers import drawn

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

NAMES = ("block_m", "block_n", "warp_rows", "warps_k", "stages", "per_sm", "cluster", "wgmma")


def check(
    shape: tuple[int, int, int],
    weight: str,
    kind: str,
    group: int,
    fields: tuple[int, ...],
    *,
    activation: torch.dtype = torch.bfloat16,
    out: str = "fp32",
    multiprocessors: int = 3,
    landing: int = 16,
) -> None:
    m, n, k = shape
    numbers = drawn(shape, weight, kind, group, activation, zeros=128)
    got = run(
        numbers.x,
        numbers.packed,
        out=out,
        config=dict(zip(NAMES, (*fields, *(1, 0)[len(fields) - 6 :]), strict=True)),
        multiprocessors=multiprocessors,
        seed=m + n + k,
        landing=landing,
    )
    numbers.check(got, out)


CASES: dict[str, tuple[Any, ...]] = {
    "one row, tiles shared between CTAs": (
        ((1, 80, 392), "int4", "fp16", 128, (8, 32, 16, 2, 4, 1)), {},
    ),
    "two fragments a warp, K in four": (
        ((7, 64, 1544), "int4", "bf16", 256, (8, 64, 32, 4, 8, 0)), {"out": "fp16"},
    ),
    "32 rows, tiles along M": (
        ((45, 64, 520), "uint4", "fp16", 32, (32, 64, 32, 2, 4, 0)), {"out": "bf16"},
    ),
    "a tile of many CTAs, mxfp4": (
        ((8, 32, 2048), "e2m1fn", "e8m0fnu", 32, (8, 32, 16, 1, 2, 4)), {"multiprocessors": 2},
    ),
    "fp16, nvfp4": (
        ((3, 48, 392), "e2m1fn", "e4m3fn", 16, (8, 32, 16, 2, 4, 1)),
        {"activation": torch.float16},
    ),
    "int8 by groups": (((3, 48, 392), "int8", "fp16", 128, (8, 48, 16, 2, 4, 1)), {}),
    "whole panels are scaled, K in two": (
        ((30, 64, 648), "int4", "fp16", 128, (32, 64, 32, 2, 4, 0, 2)), {"out": "bf16"},
    ),
    "two CTAs share K": (((5, 80, 1032), "int4", "fp16", 128, (8, 64, 32, 2, 4, 0, 2)), {}),
    "eight share K, tiles along M, tails of all": (
        ((20, 48, 1160), "uint4", "fp16", 64, (16, 32, 16, 1, 3, 0, 8)), {"out": "bf16"},
    ),
    "four share K of a group over panels": (
        ((3, 32, 904), "int8", "bf16", 256, (8, 32, 32, 2, 4, 0, 4)), {"landing": 256},
    ),
    "warpgroups": (
        ((30, 128, 904), "int4", "fp16", 128, (32, 64, 16, 2, 4, 0, 1, 1)), {"out": "bf16"},
    ),
    "warpgroups with rows that nobody has, K over two CTAs": (
        ((13, 160, 1416), "uint4", "bf16", 256, (16, 80, 16, 2, 6, 0, 2, 1)), {},
    ),
    "warpgroups, shared tiles, 8 bits": (
        ((5, 272, 392), "e4m3fn", "", 0, (8, 96, 16, 1, 3, 1, 1, 1)), {"landing": 256},
    ),
    "e4m3fn": (((3, 48, 200), "e4m3fn", "", 0, (8, 48, 16, 1, 2, 0)), {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gives_the_product(case: str) -> None:
    arguments, more = CASES[case]
    check(*arguments, **more)


#: What a reader might forget, by the line that would be wrong.
MUTATIONS = {
    "a stage given up while products read it": (
        "            take_products(of, sum);\n            done();",
        "            done();\n            take_products(of, sum);",
        (30, 192, 904), (32, 64, 16, 2, 4, 0, 1, 1),
    ),
    "the last panel's products left out": (
        "        take_products(products, sum);\n        give_back();", "        give_back();",
        (30, 128, 896), (32, 64, 16, 2, 4, 0, 1, 1),
    ),
    "rows that nobody has": (
        "if (WGMMA && BLOCK_N % 64 && row >= BLOCK_N) continue;", "",
        (30, 160, 904), (32, 80, 16, 2, 4, 0, 1, 1),
    ),
    "a stage given up too soon": (
        "multiply_stage(RINGS(stage), warp_row, lane, sum);\n            __syncwarp();\n"
        "            if (lane == 0) barrier_arrive(empty_bar + stage * 8);",
        "if (lane == 0) barrier_arrive(empty_bar + stage * 8);\n            __syncwarp();\n"
        "            multiply_stage(RINGS(stage), warp_row, lane, sum);",
        (5, 112, 904), (8, 32, 16, 2, 4, 1),
    ),
    "barriers that are not set up yet": (
        "    named_sync(READY, THREADS);\n", "", (5, 112, 904), (8, 32, 16, 2, 4, 0),
    ),
    "the part of K of another CTA of the cluster": (
        "first_panel = panels * rank / CLUSTER;", "first_panel = panels / CLUSTER * rank;",
        (5, 64, 896), (8, 32, 16, 1, 3, 0, 4),
    ),
    "the tile of a column of tiles": (
        "top = (tile - across * tiles_m) * BLOCK_M", "top = 0", (20, 64, 392), (8, 32, 16, 1, 3, 0),
    ),
    "sums read before all are there": (
        "        named_sync(STAGED, CONSUMERS);\n\n        const int pieces",
        "\n        const int pieces",
        (5, 112, 904), (8, 32, 16, 2, 4, 1),
    ),
    "staged sums overwritten": (
        "        named_sync(STAGED, CONSUMERS);  // staged sums have been read\n", "",
        (8, 320, 128), (8, 32, 16, 4, 4, 1),
    ),
    "another CTA's part": (
        "load_far(total, at + (2 * (i64)from + second) * TILE_WORDS);",
        "load_far(total, at + 2 * (i64)from * TILE_WORDS);",
        (5, 112, 904), (8, 32, 16, 2, 4, 1),
    ),
    "a neighbour's sums before they are there": (
        "        cluster_sync();\n        for (int piece", "        for (int piece",
        (5, 64, 904), (8, 32, 16, 1, 4, 0, 4),
    ),
    "groups of warps that are not added up": (
        "WARPS_K > 1 && piece < pieces", "false", (5, 64, 904), (8, 32, 16, 2, 4, 0, 2),
    ),
    "a CTA that leaves while others read": (
        "        cluster_sync_relaxed();  // until then a neighbour may read this CTA's sums\n", "",
        (5, 64, 904), (8, 32, 16, 2, 4, 0, 4),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stages", [6, 8])
def test_groups_of_warps_share_no_stage(stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copies come late, and in any order, a group would take a stage before it is full."""
    import hopper_weight_only_host as host

    fields = (8, 64, 32, 4, stages, 0)
    case = ((7, 64, 1544), "int4", "bf16", 256, fields)
    if stages == 8:
        check(*case, landing=512)
        return
    with pytest.raises(ValueError, match="stages = 6: a multiple of warps_k = 4"):
        check(*case)
    plain = host.launcher.options
    monkeypatch.setattr(
        host.launcher,
        "options",
        lambda *, config, **rest: (
            *(o for o in plain(config={**config, "stages": 8}, **rest) if "DSTAGES" not in o),
            "-DSTAGES=6",
        ),
    )
    with pytest.raises(AssertionError, match="STAGES of WARPS_K"):
        check(*case, landing=512)
    text = SOURCE.read_text().replace("|| STAGES % WARPS_K", "")
    monkeypatch.setattr(host, "source_text", lambda: text)
    monkeypatch.setattr(host, "program", host.program.__wrapped__)
    with pytest.raises(AssertionError, match="more arrivals than it expects"):
        check(*case, landing=512)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_what_stands_in_for_the_gpu_sees_mistakes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hopper_weight_only_host

    before, after, shape, fields = MUTATIONS[name]
    text = SOURCE.read_text()
    assert before in text
    monkeypatch.setattr(hopper_weight_only_host, "source_text", lambda: text.replace(before, after))
    plain = hopper_weight_only_host.program.__wrapped__
    monkeypatch.setattr(hopper_weight_only_host, "program", plain)
    with pytest.raises(AssertionError):
        check(shape, "int4", "fp16", 128, fields)
