"""The weight-only product refuses operands and configurations that do not fit, before launching."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.kernels.triton import gemm_weight_only  # noqa: E402 - triton is optional
from tiles.kernels.triton.weight_arguments import workspace_words  # noqa: E402
from tiles.kernels.triton.weight_layout import pack  # noqa: E402

CONFIG: dict[str, int | bool] = {
    "block_m": 16,
    "block_n": 32,
    "group_m": 1,
    "split_k": 1,
    "num_warps": 2,
    "num_stages": 2,
    "tma": False,
    "fold": False,
}
SPLIT = CONFIG | {"split_k": 2}
X = torch.zeros(8, 256, dtype=torch.bfloat16)


def weight(**changes: Any) -> Any:
    """48 x 256 int4 with scales of 128 columns, changed in one place."""
    arguments: dict[str, Any] = {
        "packed": torch.zeros(48, 128, dtype=torch.uint8),
        "scales": torch.ones(48, 2, dtype=torch.float16),
        "element": "int4",
        "columns": 256,
        "group": 128,
    }
    arguments |= changes
    return pack(arguments.pop("packed"), arguments.pop("scales"), **arguments)


ROW = {"scales": torch.ones(48, 1), "group": 0}
SMALL = {"scales": torch.ones(48, 8).half(), "group": 32}
MX = {"scales": torch.ones(48, 8, dtype=torch.uint8), "group": 32, "element": "e2m1fn"}
OUT = torch.zeros(8, 48)
WORDS = torch.zeros(3000, dtype=torch.int32)
WHOLE = torch.zeros(8, 304, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X.float()}, TypeError, "x has dtype torch.float32"),
        ({"x": X[0]}, ValueError, "x must be a non-empty matrix"),
        ({"x": X[:, :128]}, ValueError, "x has 128 columns and weight 256"),
        ({"x": torch.zeros(256, 8, dtype=torch.bfloat16).T}, ValueError, "x has stride 8"),
        ({"x": X.to("meta")}, ValueError, "x lies on meta"),
        ({"c": torch.zeros(8, 48, dtype=torch.int8)}, TypeError, "c has dtype torch.int8"),
        ({"c": torch.zeros(8, 47)}, ValueError, "c must be 8 x 48"),
        ({"c": torch.zeros(48).expand(8, 48)}, ValueError, "c has rows 0 apart"),
        ({"x": WHOLE[:, :256], "c": WHOLE[:, 256:]}, ValueError, "c overlaps x"),
        (
            {"weight": replace(weight(), row_scale=OUT[7]), "c": OUT},
            ValueError,
            r"c overlaps weight\.row_scale",
        ),
        (
            {"config": SPLIT, "workspace": WORDS, "c": WORDS[:384].view(torch.float32).view(8, 48)},
            ValueError,
            "c overlaps workspace",
        ),
        (
            {"x": X.half(), "weight": weight(**MX), "config": CONFIG | {"fold": True}},
            TypeError,
            "E8M0 scales need the range",
        ),
        ({"config": CONFIG | {"block_k": 64}}, ValueError, "field 'block_k'"),
        (
            {"config": CONFIG | {"block_m": 24}},
            ValueError,
            "block_m = 24: it must be a power of two",
        ),
        ({"config": CONFIG | {"group_m": 0}}, ValueError, "group_m 0: it must be at least 1"),
        ({"config": CONFIG | {"split_k": 3}}, ValueError, "split_k 3 > 2 panels of 128 columns"),
        ({"weight": weight(**ROW), "config": CONFIG | {"fold": True}}, ValueError, "fold needs"),
        ({"weight": weight(**SMALL)}, ValueError, "groups of 32 need fold"),
        ({"config": SPLIT}, ValueError, "needs a workspace of 2080 int32 zeros"),
        ({"config": SPLIT, "workspace": torch.zeros(3000)}, TypeError, "workspace has dtype"),
        (
            {"config": SPLIT, "workspace": torch.zeros(9, dtype=torch.int32)},
            ValueError,
            "2080 contiguous words",
        ),
        (
            {
                "x": torch.zeros(8, 260, dtype=torch.bfloat16)[:, :256],
                "config": CONFIG | {"tma": True},
            },
            ValueError,
            "x: rows start 520 B apart",
        ),
    ],
)
def test_refuses_what_does_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"x": X, "weight": weight(), "c": torch.zeros(8, 48)}
    arguments |= {"config": CONFIG} | changes
    x, packed, c = (arguments.pop(name) for name in ("x", "weight", "c"))
    with pytest.raises(error, match=message):
        gemm_weight_only.launch(x, packed, c, **arguments)


def test_workspace_holds_counters_and_partial_sums() -> None:
    assert workspace_words(CONFIG, 8, 48) == 0
    assert workspace_words(SPLIT, 8, 48) == 32 + 2 * 2 * 16 * 32
