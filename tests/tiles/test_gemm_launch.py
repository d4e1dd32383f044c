"""The scaled GEMM refuses operands and configurations that do not fit, before it launches."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.kernels import gemm as descriptor  # noqa: E402 - triton is optional
from tiles.kernels.triton import gemm_arguments, gemm_scaled  # noqa: E402
from tiles.kernels.triton.launch_checks import MAX_INT32_K, check_integer_sums  # noqa: E402

CONFIG: dict[str, int | bool] = {
    "block_m": 32,
    "block_n": 32,
    "block_k": 32,
    "group_m": 1,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
    "persistent": False,
}


MODES = {**CONFIG, "split_k": 1, "stream_k": False, "subtiles": 0, "overlap": False}
#: A tile of 128 x 32 that two warpgroups halve.
HALVES = {"specialize": True, "tma": True, "block_m": 128}
SHARED = torch.zeros(64, 96 + 4 * 48, dtype=torch.int8)


def launch(**changes: Any) -> None:
    """A launch of 64 x 48 x 96 int8 with row scales, changed in one place."""
    arguments: dict[str, Any] = {
        "a": torch.zeros(64, 96, dtype=torch.int8),
        "b": torch.zeros(48, 96, dtype=torch.int8),
        "c": torch.zeros(64, 48),
        "a_scale": torch.ones(64, 1),
        "b_scale": torch.ones(48, 1),
        "a_block": (1, 0),
        "b_block": (1, 0),
        "config": CONFIG,
    }
    arguments |= changes
    operands = [arguments.pop(name) for name in ("a", "b", "c", "a_scale", "b_scale")]
    gemm_scaled.launch(*operands, **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"a": torch.zeros(64, 96)}, TypeError, "a has dtype torch.float32"),
        ({"c": torch.zeros(64, 48, dtype=torch.int8)}, TypeError, "c has dtype torch.int8"),
        (
            {"b": torch.zeros(48, 96, dtype=torch.bfloat16)},
            TypeError,
            "no tensor core multiplies these",
        ),
        ({"b": torch.zeros(48, 90, dtype=torch.int8)}, ValueError, "the second extents differ"),
        ({"c": torch.zeros(64, 47)}, ValueError, "c must be 64 x 48"),
        ({"c": torch.zeros(48).expand(64, 48)}, ValueError, "c has rows 0 apart, less than its 48"),
        (
            {"a": torch.zeros(96, dtype=torch.int8)},
            ValueError,
            "a must have 2 dimensions and elements",
        ),
        (
            {"a": torch.zeros(96, 64, dtype=torch.int8).T},
            ValueError,
            "a has stride 64 along its last extent",
        ),
        ({"a": torch.zeros(64, 96, dtype=torch.int8, device="meta")}, ValueError, "lies on cpu"),
        ({"a_scale": None}, ValueError, "a_scale and a_block go together"),
        ({"b_scale": torch.ones(48, 1).double()}, TypeError, "b_scale has dtype torch.float64"),
        ({"a_scale": torch.ones(1, 64)}, ValueError, r"a_scale must have shape \(64, 1\)"),
        (
            {"a_scale": torch.ones(64, 6), "a_block": (1, 16)},
            ValueError,
            "block_k 32 does not divide the 16 columns",
        ),
        ({"a_block": (-1, 0)}, ValueError, "extents are positive"),
        ({"config": {**CONFIG, "split": 2}}, ValueError, "field 'split'"),
        ({"config": {**CONFIG, "split_k": 2}}, ValueError, "split_k 2 needs a workspace of 24576"),
        ({"config": {**CONFIG, "split_k": 0}}, ValueError, "split_k 0: it must be at least 1"),
        (
            {"config": {**CONFIG, "split_k": 2}, "workspace": torch.zeros(24575).int()},
            ValueError,
            "workspace must be 24576 contiguous words or more",
        ),
        (
            {"config": {**CONFIG, "split_k": 2}, "workspace": torch.zeros(24576)},
            TypeError,
            "workspace has dtype torch.float32",
        ),
        (
            {"config": {**CONFIG, "persistent": True, "split_k": 2}, "num_sms": 3},
            ValueError,
            "split_k 2 of a persistent config",
        ),
        (
            {"config": {**CONFIG, "persistent": True, "stream_k": True}, "num_sms": 3},
            ValueError,
            "stream_k needs a workspace of 22528",
        ),
        (
            {"config": {**CONFIG, "stream_k": True}},
            ValueError,
            "stream_k needs a persistent config",
        ),
        ({"config": {**CONFIG, "subtiles": 2}}, ValueError, "subtiles 2: 1, 2 or 4 parts"),
        ({"config": {**CONFIG, "overlap": True}}, ValueError, "overlap needs scales along K"),
        ({"config": {**CONFIG, "specialize": True}}, ValueError, "specialize needs tma"),
        (
            {"config": {**CONFIG, "specialize": True, "tma": True, "num_warps": 8}},
            ValueError,
            "specialize needs num_warps 4",
        ),
        *(
            (
                {"config": {**CONFIG, "specialize": True, "tma": True, "block_m": block_m}},
                ValueError,
                f"specialize needs block_m in multiples of 128, not {block_m}",
            )
            for block_m in (32, 64, 192)
        ),
        *(
            (
                {
                    **{
                        f"{side}_block": (rows, 32) for side, rows in zip("ab", blocks, strict=True)
                    },
                    "a_scale": torch.ones(-(-64 // blocks[0]), 3),
                    "b_scale": torch.ones(-(-48 // blocks[1]), 3),
                    "config": {**CONFIG, **HALVES},
                },
                ValueError,
                message,
            )
            for blocks, message in (
                ((64, 32), "specialize needs one scale over block_m 128 or one a row, not blocks"),
                ((1, 16), "specialize needs one scale over block_n 32 or one a row, not blocks"),
            )
        ),
        (
            {"a": SHARED[:, :96], "c": SHARED[:, 96:].view(torch.float32)},
            ValueError,
            "c overlaps a in its range of addresses",
        ),
        ({"config": {**CONFIG, "persistent": True}}, ValueError, "needs num_sms"),
        (
            {
                "a": torch.zeros(64, 120, dtype=torch.int8)[:, :96],
                "config": {**CONFIG, "tma": True},
            },
            ValueError,
            "a: rows start 120 B apart",
        ),
        (
            {
                "a": torch.zeros(64, MAX_INT32_K + 1, dtype=torch.int8),
                "b": torch.zeros(48, MAX_INT32_K + 1, dtype=torch.int8),
            },
            ValueError,
            f"K = {MAX_INT32_K + 1}: int32 sums of int8 products could overflow past",
        ),
    ],
)
def test_refuses_what_does_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        launch(**changes)


def test_the_longest_sums_of_int8_fit_and_the_descriptor_knows_them() -> None:
    assert MAX_INT32_K * 127**2 < 2**31 <= (MAX_INT32_K + 1) * 127**2
    assert descriptor.MAX_INT32_K == MAX_INT32_K
    check_integer_sums(torch.int8, MAX_INT32_K, (1, 0), (1, 0))
    # Blocks along K empty the integer accumulator, floats have none.
    check_integer_sums(torch.int8, MAX_INT32_K + 1, (1, 32), None)
    check_integer_sums(torch.bfloat16, MAX_INT32_K + 1, None, None)
    with pytest.raises(ValueError, match=f"past {MAX_INT32_K}"):
        check_integer_sums(torch.int8, MAX_INT32_K + 1, None, None)


@pytest.mark.parametrize(
    ("quant_rows", "tile_rows", "expected"),
    [(0, 128, 128), (128, 64, 64), (128, 128, 128), (32, 128, 32), (1, 128, 1), (48, 128, 1)],
)
def test_scale_group_is_the_run_of_rows_that_surely_shares_a_scale(
    quant_rows: int, tile_rows: int, expected: int
) -> None:
    group = gemm_arguments.scale_group(quant_rows, tile_rows)
    assert group == expected
    assert tile_rows % group == 0
    for first in range(0, 4 * tile_rows, group):
        assert quant_rows == 0 or first // quant_rows == (first + group - 1) // quant_rows


@pytest.mark.parametrize("a_rows", [1, 96, 128, 256])
def test_specialised_warps_take_one_scale_a_tile_or_one_a_row(a_rows: int) -> None:
    gemm_arguments._check_modes({**MODES, **HALVES}, (a_rows, 32), (32, 32), decode=False)
