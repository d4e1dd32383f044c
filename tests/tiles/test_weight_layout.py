"""The order of packed weights, against a scalar twin, and what packing refuses."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tiles.formats import pack_codes  # noqa: E402 - torch is optional
from tiles.kernels.triton.weight_layout import pack, panel_columns  # noqa: E402


def scalar_twin(codes: Any, element: str) -> Any:
    """The module's docstring, byte by byte."""
    n, k = codes.shape
    columns = panel_columns(element)
    panels = -(-k // columns)
    packed = torch.zeros(panels, n, 64, dtype=torch.uint8)
    for row in range(n):
        for col in range(k):
            panel, within = divmod(col, columns)
            half, place = divmod(within, 64)
            j, rest = divmod(place, 16)
            h, rest = divmod(rest, 8)
            t, p = divmod(rest, 2)
            packed[panel, row, 16 * t + 4 * j + 2 * h + p] |= int(codes[row, col]) << 4 * half
    return packed


@pytest.mark.parametrize(("element", "bits"), [("int4", 4), ("e2m1fn", 4), ("int8", 8)])
@pytest.mark.parametrize("k", [1, 64, 131, 256])
def test_layout_equals_its_scalar_twin(element: str, bits: int, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    codes = torch.randint(0, 1 << bits, (3, k), generator=generator, dtype=torch.uint8)
    laid_out = pack(pack_codes(codes, bits), torch.ones(3, 1), element=element, columns=k)
    assert torch.equal(laid_out.codes, scalar_twin(codes, element))


def test_scales_below_a_panel_lie_panel_by_panel() -> None:
    scales = torch.arange(2 * 7, dtype=torch.float16).view(2, 7)  # 7 groups of 32: 200 columns
    codes = torch.zeros(2, 100, dtype=torch.uint8)
    laid_out = pack(codes, scales, element="int4", columns=200, group=32)
    assert laid_out.scale is not None
    assert laid_out.scale.tolist() == [
        [[0, 1, 2, 3], [7, 8, 9, 10]],
        [[4, 5, 6, 6], [11, 12, 13, 13]],
    ]


def test_scales_of_whole_panels_lie_group_by_group() -> None:
    scales = torch.arange(6, dtype=torch.float16).view(2, 3)
    codes = torch.zeros(2, 150, dtype=torch.uint8)
    laid_out = pack(codes, scales, element="int4", columns=300, group=128)
    assert laid_out.scale is not None
    assert laid_out.scale.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_nan_code_moves_into_the_scale_of_its_row() -> None:
    codes = torch.zeros(3, 70, dtype=torch.uint8)
    codes[1, 69] = 0xFF
    laid_out = pack(codes, torch.full((3, 1), 2.0), element="e4m3fn", columns=70)
    assert torch.equal(laid_out.row_scale.isnan(), torch.tensor([False, True, False]))


GOOD: dict[str, Any] = {
    "packed": torch.zeros(4, 128, dtype=torch.uint8),
    "scales": torch.ones(4, 2, dtype=torch.float16),
    "element": "int4",
    "columns": 256,
    "group": 128,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"element": "nf4"}, ValueError, "element 'nf4': choose one of"),
        ({"packed": torch.zeros(4, 128)}, TypeError, "packed has dtype torch.float32"),
        ({"packed": torch.zeros(128, dtype=torch.uint8)}, ValueError, "a non-empty matrix"),
        ({"columns": 300}, ValueError, "300 codes of int4 take 150 bytes a row, packed has 128"),
        ({"group": 48}, ValueError, "group 48 of int4: choose a multiple of 128 or 16 or 32"),
        ({"scales": torch.ones(4, 3).half()}, ValueError, r"scales must have shape \(4, 2\)"),
        ({"scales": torch.ones(4, 2).double()}, TypeError, "scales have dtype torch.float64"),
        ({"element": "uint4"}, ValueError, "uint4, and it alone, takes zero_points"),
        (
            {"element": "uint4", "zero_points": torch.full((4, 2), 128, dtype=torch.uint8)},
            ValueError,
            "zero_points up to 128: they are at most 127",
        ),
        ({"scales": torch.ones(4, 2, device="meta")}, ValueError, "scales lie on meta"),
    ],
)
def test_pack_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = GOOD | change
    with pytest.raises(error, match=message):
        pack(arguments.pop("packed"), arguments.pop("scales"), **arguments)
