"""The weight-only product refuses operands and configurations that do not fit, before launching."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.kernels import weight_only_rules  # noqa: E402 - triton is optional
from tiles.kernels.triton import gemm_weight_only  # noqa: E402
from tiles.kernels.triton.split_workspace import MAX_SPLIT_TILES, workspace_words  # noqa: E402
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
WORDS = torch.zeros(MAX_SPLIT_TILES + 3000, dtype=torch.int32)
WHOLE = torch.zeros(8, 304, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X.float()}, TypeError, "x has dtype torch.float32"),
        ({"x": X[0]}, ValueError, "x must be a non-empty matrix"),
        ({"x": X[:, :128]}, ValueError, "x has 128 columns and weight 256"),
        ({"x": torch.zeros(256, 8, dtype=torch.bfloat16).T}, ValueError, "x has stride 8"),
        ({"x": X.to("meta")}, ValueError, "x on meta, .*c on cpu: they must share one device"),
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
        ({"config": CONFIG | {"group_m": 0}}, ValueError, "group_m = 0: it must be at least 1"),
        ({"config": CONFIG | {"split_k": 3}}, ValueError, "split_k 3 > 2 panels of 128 columns"),
        ({"weight": weight(**ROW), "config": CONFIG | {"fold": True}}, ValueError, "fold needs"),
        ({"weight": weight(**SMALL)}, ValueError, "groups of 32 need fold"),
        ({"config": SPLIT}, ValueError, "needs a workspace of 18432 int32 zeros"),
        ({"config": SPLIT, "workspace": torch.zeros(3000)}, TypeError, "workspace has dtype"),
        (
            {"config": SPLIT, "workspace": torch.zeros(9, dtype=torch.int32)},
            ValueError,
            "18432 contiguous words",
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


INT4 = weight()
UINT4 = weight(element="uint4", zero_points=torch.zeros(48, 2, dtype=torch.uint8))
FINE = weight(**SMALL)


@pytest.mark.parametrize(
    ("packed", "error", "message"),
    [
        (replace(INT4, element="int3"), ValueError, "element 'int3': choose one of int4"),
        (replace(INT4, group=96), ValueError, "group 96 of int4: choose a multiple of 128"),
        (replace(INT4, columns=0), ValueError, r"weight\.columns 0"),
        (replace(INT4, codes=INT4.codes[0]), ValueError, r"weight\.codes has shape \(48, 64\)"),
        (replace(INT4, codes=INT4.codes.to(torch.int8)), TypeError, r"weight\.codes has dtype"),
        (replace(INT4, codes=INT4.codes[:1]), ValueError, r"weight\.codes has shape \(1, 48, 64\)"),
        (
            replace(INT4, columns=300),
            ValueError,
            r"weight\.codes has shape \(2, 48, 64\): 48 x 300",
        ),
        (replace(INT4, scale=INT4.scale[:1]), ValueError, r"weight\.scale has shape \(1, 48\)"),
        (
            replace(INT4, scale=INT4.scale.float()),
            TypeError,
            r"weight\.scale has dtype torch.float32",
        ),
        (replace(INT4, scale=None), ValueError, r"weight\.scale and scale_format go with a group"),
        (replace(INT4, group=0), ValueError, r"weight\.scale and scale_format go with a group"),
        (replace(INT4, scale_format="e5m2"), ValueError, r"weight\.scale_format 'e5m2'"),
        (replace(FINE, scale=FINE.scale[:, :, :2]), ValueError, r"take \(2, 48, 4\)"),
        (
            replace(INT4, row_scale=torch.ones(47)),
            ValueError,
            r"weight\.row_scale has shape \(47,\)",
        ),
        (replace(INT4, row_scale=torch.ones(48).half()), TypeError, r"weight\.row_scale has dtype"),
        (
            replace(INT4, row_scale=torch.ones(96)[::2]),
            ValueError,
            r"weight\.row_scale has strides",
        ),
        (replace(INT4, zero=UINT4.zero), ValueError, "uint4, and it alone, has zero points"),
        (replace(UINT4, zero=None), ValueError, "uint4, and it alone, has zero points"),
        (replace(UINT4, zero=UINT4.zero[:, :7]), ValueError, r"weight\.zero has shape \(2, 7\)"),
        (replace(UINT4, zero=UINT4.zero.int()), TypeError, r"weight\.zero has dtype torch.int32"),
        (
            replace(UINT4, scale=None, group=0, scale_format=""),
            ValueError,
            "zero points go with groups along K",
        ),
    ],
)
def test_refuses_weights_that_are_not_laid_out_as_packed(
    packed: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gemm_weight_only.launch(X, packed, torch.zeros(8, 48), config=CONFIG)


@pytest.mark.parametrize("packed", [INT4, UINT4, FINE, weight(**ROW), weight(**MX)])
def test_what_pack_makes_is_laid_out(packed: Any) -> None:
    packed.check()


def test_descriptors_refuse_codes_off_16_bytes() -> None:
    held = torch.zeros(INT4.codes.numel() + 1, dtype=torch.uint8)
    off = replace(INT4, codes=held[1:].view(INT4.codes.shape))
    with pytest.raises(ValueError, match=r"weight\.codes: rows start 64 B apart from address"):
        gemm_weight_only.launch(X, off, torch.zeros(8, 48), config=CONFIG | {"tma": True})


def test_a_split_k_has_as_many_tiles_as_the_workspace_counts() -> None:
    assert weight_only_rules.MAX_SPLIT_TILES == MAX_SPLIT_TILES
    rows = 8 * MAX_SPLIT_TILES
    config = SPLIT | {"block_m": 8, "block_n": 64}
    held = torch.empty(workspace_words(config, rows, 48), dtype=torch.int32, device="meta")
    packed = replace(
        INT4,
        **{name: getattr(INT4, name).to("meta") for name in ("codes", "scale", "row_scale")},
    )

    def launch(m: int) -> None:
        x = torch.empty(m, 256, dtype=torch.bfloat16, device="meta")
        c = torch.empty(m, 48, device="meta")
        gemm_weight_only.launch(x, packed, c, config=config, workspace=held)

    with pytest.raises(ValueError, match=f"split_k 2 of {MAX_SPLIT_TILES + 1} tiles"):
        launch(rows + 1)
    # As many as are counted: nothing is left but to launch, which has no device here.
    with pytest.raises(RuntimeError, match="active drivers"):
        launch(rows)


def test_workspace_holds_counters_and_partial_sums() -> None:
    assert workspace_words(CONFIG, 8, 48) == 0
    assert workspace_words(SPLIT, 8, 48) == MAX_SPLIT_TILES + 2 * 2 * 16 * 32
