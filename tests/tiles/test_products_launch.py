"""Batched and grouped GEMMs refuse operands that do not fit, before they launch."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.kernels.triton import gemm_batched, gemm_grouped  # noqa: E402 - triton is optional
from tiles.kernels.triton.launch_checks import MAX_INT32_K  # noqa: E402

LONG = MAX_INT32_K + 1

BATCHED: dict[str, int | bool] = {
    "block_m": 32,
    "block_n": 32,
    "block_k": 32,
    "group_m": 1,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
}
GROUPED = {**BATCHED, "ctas_per_sm": 1}


def int8(*shape: int) -> Any:
    return torch.zeros(*shape, dtype=torch.int8)


def batched(**changes: Any) -> None:
    """Three products of 64 x 48 x 96 int8 with row scales, changed in one place."""
    arguments: dict[str, Any] = {
        "a": int8(3, 64, 96),
        "b": int8(3, 48, 96),
        "c": torch.zeros(3, 64, 48),
        "a_scale": torch.ones(3, 64, 1),
        "b_scale": torch.ones(3, 48, 1),
        "second": "nk",
        "a_block": (1, 0),
        "b_block": (1, 0),
        "config": BATCHED,
    } | changes
    gemm_batched.launch(**arguments)


def grouped(**changes: Any) -> None:
    """Five experts with 48 x 96 int8 weights and 64 rows in all, changed in one place."""
    arguments: dict[str, Any] = {
        "a": int8(64, 96),
        "b": int8(5, 48, 96),
        "c": torch.zeros(64, 48),
        "a_scale": torch.ones(64, 1),
        "b_scale": torch.ones(5, 48, 1),
        "offsets": torch.zeros(6, dtype=torch.int64),
        "a_block": (1, 0),
        "b_block": (1, 0),
        "config": GROUPED,
        "num_sms": 3,
    } | changes
    gemm_grouped.launch(**arguments)


META = torch.empty(0, dtype=torch.int8, device="meta")
SHARED = int8(3, 64, 96)

BLOCKS: dict[str, Any] = {
    "a_scale": torch.ones(64, 3),
    "b_scale": torch.ones(5, 2, 3),
    "a_block": (1, 32),
    "b_block": (32, 32),
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": torch.zeros(3, 64, 96)}, TypeError, "a has dtype torch.float32"),
        ({"a": int8(64, 96)}, ValueError, "a must have 3 or 4 dimensions"),
        ({"b": int8(1, 3, 48, 96)}, ValueError, "b must have 3 dimensions"),
        ({"b": torch.zeros(3, 48, 96, dtype=torch.bfloat16)}, TypeError, "no tensor core"),
        ({"b": int8(3, 48, 90)}, ValueError, r"b must be \(3, 48, 96\)"),
        ({"b": int8(2, 48, 96)}, ValueError, r"b must be \(3, 48, 96\)"),
        ({"second": "kn"}, ValueError, r"b must be \(3, 96, 96\)"),
        ({"second": "nn"}, ValueError, "second = 'nn': choose nk or kn"),
        ({"b": int8(3, 96, 48).mT}, ValueError, "b has stride 48 along its last extent"),
        ({"c": torch.zeros(3, 64, 47)}, ValueError, r"c must be \(3, 64, 48\)"),
        ({"c": torch.zeros(3, 1, 48).expand(3, 64, 48)}, ValueError, "c has rows 0 apart"),
        (
            {"c": torch.zeros(1, 64, 48).expand(3, 64, 48)},
            ValueError,
            r"c of shape \(3, 64, 48\) has strides \(0, 48, 1\): its elements overlap",
        ),
        (
            {"c": torch.zeros(192 * 48).as_strided((3, 64, 48), (48, 48, 1))},
            ValueError,
            "its elements overlap",
        ),
        ({"config": {**BATCHED, "block_m": 48}}, ValueError, "block_m = 48: it must be a power"),
        ({"config": {**BATCHED, "block_k": 16}}, ValueError, "block_k = 16: .* at least 32"),
        ({"config": {**BATCHED, "block_n": 0}}, ValueError, "block_n = 0"),
        ({"config": {**BATCHED, "group_m": 0}}, ValueError, "group_m = 0: it must be at least 1"),
        ({"config": {**BATCHED, "num_warps": 3}}, ValueError, "num_warps = 3"),
        ({"config": {**BATCHED, "num_stages": 0}}, ValueError, "num_stages = 0"),
        ({"c": torch.zeros(3, 64, 48, device="meta")}, ValueError, "c lies on meta and a on cpu"),
        ({"a_scale": None}, ValueError, "a_scale and a_block go together"),
        ({"a_scale": torch.ones(64, 1)}, ValueError, r"a_scale must have shape \(3, 64, 1\)"),
        ({"b_scale": torch.ones(3, 48, 1).double()}, TypeError, "b_scale has dtype torch.float64"),
        ({"config": GROUPED}, ValueError, "field 'ctas_per_sm'"),
        (
            {"b_scale": torch.ones(3, 3, 3), "b_block": (16, 32)},
            ValueError,
            "block_n 32 does not divide the 16 rows under a b_scale",
        ),
        (
            {"a_scale": torch.ones(3, 64, 6), "a_block": (1, 16)},
            ValueError,
            "block_k 32 does not divide the 16 columns",
        ),
        (
            {"a": SHARED, "c": SHARED.view(torch.float32).flatten()[:3072].view(3, 64, 16),
             "b": int8(3, 16, 96), "b_scale": torch.ones(3, 16, 1)},
            ValueError,
            "c overlaps a in its range of addresses: what is written needs memory of its own",
        ),
        (
            {"a": int8(3, 64, 2, 96)[:, :, 0], "config": {**BATCHED, "tma": True}},
            None,
            "",
        ),
        (
            {"a": int8(3, 80, 96)[:, :64], "config": {**BATCHED, "tma": True}},
            ValueError,
            "a: its matrices lie 7680 elements apart, 64 rows of 96 take 6144",
        ),
        (
            {"a": META.new_empty(2, 2**30, 32), "b": META.new_empty(2, 48, 32),
             "c": META.new_empty(2, 2**30, 48, dtype=torch.float32), "a_scale": None,
             "b_scale": None, "a_block": None, "b_block": None, "config": {**BATCHED, "tma": True}},
            ValueError,
            "a: 2147483648 rows under one descriptor, its coordinates have 31 bits",
        ),
        (
            {"a": int8(3, 64, 100)[..., :96], "config": {**BATCHED, "tma": True}},
            ValueError,
            "a: rows start 100 B apart",
        ),
        (
            {"a": int8(3, 64, 80), "b": int8(3, 80, 48), "second": "kn",
             "config": {**BATCHED, "tma": True}},
            ValueError,
            "K = 80, block_k 32: tma would read the next matrix",
        ),
        (
            {"a": int8(3, 64, LONG), "b": int8(3, 48, LONG)},
            ValueError,
            f"K = {LONG}: int32 sums of int8 products could overflow",
        ),
        (
            {"a": int8(3, 64, LONG), "b": int8(3, LONG, 48), "second": "kn", "a_scale": None,
             "a_block": None, "b_scale": torch.ones(3, 1, 1), "b_block": (0, 0)},
            ValueError,
            f"K = {LONG}: int32 sums of int8 products could overflow",
        ),
    ],
)  # fmt: skip
def test_a_batch_refuses_what_does_not_fit(
    changes: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    if error is None:
        # Rows may lie apart: only a launch, which has no device here, is left to fail.
        with pytest.raises(RuntimeError, match="active drivers"):
            batched(**changes)
        return
    with pytest.raises(error, match=message):
        batched(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": int8(5, 64, 96)}, ValueError, r"this layout takes \(rows, K\)"),
        ({"b": int8(48, 96)}, ValueError, "b must have 3 dimensions"),
        ({"b": int8(5, 48, 90)}, ValueError, "the last extents must be equal"),
        ({"c": torch.zeros(64, 47)}, ValueError, r"c must be \(64, 48\)"),
        ({"offsets": None}, ValueError, "give offsets, counts"),
        (
            {"offsets": torch.zeros(6, dtype=torch.int32)},
            TypeError,
            "offsets has dtype torch.int32",
        ),
        ({"offsets": torch.zeros(5, dtype=torch.int64)}, ValueError, "5 experts need 6"),
        ({"offsets": torch.zeros(12, dtype=torch.int64)[::2]}, ValueError, "contiguous vector"),
        (
            {"offsets": torch.zeros(6, dtype=torch.int64, device="meta")},
            ValueError,
            "offsets lies on meta",
        ),
        ({"counts": torch.zeros(5)}, TypeError, "counts has dtype torch.float32"),
        ({"counts": torch.zeros(4, dtype=torch.int32)}, ValueError, "counts has 4 entries"),
        (
            {"offsets": None, "counts": torch.zeros(5, dtype=torch.int32)},
            ValueError,
            r"takes \(E, capacity, K\)",
        ),
        (
            {"offsets": None, "counts": torch.zeros(5, dtype=torch.int32), "a": int8(4, 16, 96)},
            ValueError,
            "a has 4 groups, b 5 experts",
        ),
        (
            {
                "offsets": None,
                "counts": torch.zeros(5, dtype=torch.int32),
                "a": int8(5, 16, 96),
                "a_scale": torch.ones(5, 16, 1),
                "c": torch.zeros(16, 48).expand(5, 16, 48),
            },
            ValueError,
            "c of shape .* its elements overlap",
        ),
        ({"config": {**GROUPED, "group_m": 0}}, ValueError, "group_m = 0"),
        ({"config": {**GROUPED, "block_k": 0}}, ValueError, "block_k = 0"),
        ({"top_k": 2}, ValueError, "top_k = 2 needs ids"),
        (
            {"ids": torch.zeros(128, dtype=torch.int32), "top_k": 2},
            ValueError,
            r"c must be \(128, 48\)",
        ),
        (
            {
                "ids": torch.zeros(64, dtype=torch.int32),
                "counts": torch.zeros(5, dtype=torch.int32),
            },
            ValueError,
            "ids go with offsets alone",
        ),
        ({"ids": torch.zeros(0, dtype=torch.int32)}, ValueError, "0 ids: both are at least 1"),
        ({"num_sms": 0}, ValueError, "num_sms = 0"),
        ({"config": {**GROUPED, "ctas_per_sm": 0}}, ValueError, "ctas_per_sm = 0"),
        ({"config": BATCHED}, ValueError, "field 'ctas_per_sm'"),
        ({"b_scale": torch.ones(48, 1)}, ValueError, r"b_scale must have shape \(5, 48, 1\)"),
        (
            BLOCKS | {"a_scale": torch.ones(2, 3), "a_block": (32, 32)},
            ValueError,
            "blocks of rows would straddle experts",
        ),
        (
            BLOCKS | {"config": {**GROUPED, "block_n": 64}},
            ValueError,
            "block_n 64 does not divide the 32 rows",
        ),
        (
            BLOCKS | {"a_scale": torch.ones(1, 3), "a_block": (0, 32)},
            ValueError,
            "scales along K come in rows",
        ),
        (
            {"b": int8(5, 60, 96)[:, :48], "config": {**GROUPED, "tma": True}},
            ValueError,
            "b: its matrices lie 5760 elements apart",
        ),
        (
            {"a": int8(64, LONG), "b": int8(5, 48, LONG)},
            ValueError,
            f"K = {LONG}: int32 sums of int8 products could overflow",
        ),
    ],
)
def test_groups_refuse_what_does_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        grouped(**changes)
