"""Packed outliers against the exact rules of the error tables, bit for bit."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
from cuda_division import CudaDivision

from sim.error.outliers import fallback_amax, kept_columns, residual
from sim.error.rounding import numpy_rounder
from tiles.formats import TensorFormat, decode, encode, quantize
from tiles.kernels.outlier_packing import column_capacity, pack_blocks, pack_columns
from tiles.kernels.quantize_torch import quantize_torch
from tiles.kernels.triton.outlier_operands import FallbackBlocks, KeptColumns
from tiles.recipes import OutlierBlocks, OutlierColumns

ROW = TensorFormat.parse("int8.row")
BLOCK = TensorFormat.parse("int8.b16x32")


def drawn(rows: int, k: int, seed: int = 0) -> Any:
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))
    x[:, [2, k // 2, k - 1]] *= 30
    return x


def columns_of(x: Any, w: Any, capacity: int = 64, threshold: float = 6.0) -> tuple[Any, Any]:
    packed = pack_columns(x, w, ROW, OutlierColumns(threshold=threshold), capacity)
    assert isinstance(packed.outliers, KeptColumns)
    return packed, packed.outliers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_are_those_of_the_error_tables(dtype: Any) -> None:
    x, w = drawn(9, 70).to(dtype), drawn(11, 70, 1).to(dtype)
    x[3, 5] = 70000.0  # beyond fp16, where it saturates
    packed, kept = columns_of(x, w)
    a, b = x.float().numpy(), w.float().numpy()
    wide = kept_columns(a, OutlierColumns())
    used = int(wide.sum())
    assert kept.count.tolist() == [used]
    assert used >= 4
    codes = quantize(np.where(wide, np.float32(0), a), ROW)
    assert np.array_equal(packed.codes.numpy(), codes.codes.view(np.int8))
    assert np.array_equal(packed.scales.numpy(), codes.scales)
    fp16 = OutlierColumns().kept
    for got, matrix in ((kept.a, a), (kept.b, b)):
        assert np.array_equal(
            got[:, :used].float().numpy(), decode(encode(matrix[:, wide], fp16), fp16)
        )
        assert not got[:, used:].any()


def test_scales_are_the_same_where_division_by_a_number_is_a_product() -> None:
    x, w = drawn(300, 70), drawn(11, 70, 1)
    with CudaDivision():
        assert not torch.equal(x / 127, x / torch.full_like(x, 127))
        columns, _ = columns_of(x, w)
        blocks = pack_blocks(x, BLOCK, OutlierBlocks(share=0.3))
    wide = (x.abs() > 6).any(dim=0)
    for packed, values, fmt in ((columns, x.masked_fill(wide, 0), ROW), (blocks, x, BLOCK)):
        wanted = quantize(values.numpy(), fmt)
        assert np.array_equal(packed.scales.numpy(), wanted.scales)
        assert np.array_equal(packed.codes.numpy(), wanted.codes.view(np.int8))


def test_no_column_and_every_column() -> None:
    x, w = torch.ones(3, 40), torch.ones(2, 40)
    packed, kept = columns_of(x, w)
    assert kept.count.tolist() == [0]
    assert not kept.a.any()
    packed, kept = columns_of(x, w, threshold=0.5)
    assert kept.count.tolist() == [40]
    assert not packed.codes.any()
    assert (packed.scales == 1).all()
    assert kept.a.sum() == 3 * 40


def test_more_columns_than_capacity_spoil_the_product_instead_of_losing_some() -> None:
    x, w = torch.ones(3, 100), torch.ones(2, 100)
    packed, kept = columns_of(x, w, threshold=0.5)
    assert kept.count.tolist() == [100]
    assert packed.scales.isnan().all()
    packed, _ = columns_of(x, w, capacity=column_capacity(100), threshold=0.5)
    assert packed.scales.isfinite().all()


def test_weights_of_unused_columns_leave_no_infinity_behind() -> None:
    x, w = torch.ones(3, 40), torch.full((2, 40), torch.inf)
    _, kept = columns_of(x, w)
    assert not kept.b.any()


@pytest.mark.parametrize(("rows", "k"), [(64, 96), (37, 77), (5, 20)])
@pytest.mark.parametrize("share", [0.2, 0.001, 1.0])
def test_blocks_are_those_of_the_error_tables(rows: int, k: int, share: float) -> None:
    x = drawn(rows, k)
    x[:16, :32] = 0
    outliers = OutlierBlocks(share=share)
    packed = pack_blocks(x, BLOCK, outliers)
    second = packed.outliers
    assert isinstance(second, FallbackBlocks)
    a = x.numpy()
    codes = quantize(a, BLOCK)
    assert np.array_equal(packed.codes.numpy(), codes.codes.view(np.int8))
    rest = residual(a, numpy_rounder(a, BLOCK, 0), BLOCK, fallback_amax(a, BLOCK, outliers))
    wanted = quantize(rest, BLOCK)
    assert wanted.scales is not None
    got = np.zeros(((-(-rows // 16)) * 16, (-(-k // 32)) * 32), np.int8)
    scales = np.ones(wanted.scales.shape, np.float32)
    for row in range(len(second.offsets) - 1):
        mine = range(int(second.offsets[row]), int(second.offsets[row + 1]))
        places = [int(second.columns[entry]) for entry in mine]
        assert places == sorted(places)
        for entry, column in zip(mine, places, strict=True):
            got[row * 16 : row * 16 + 16, column * 32 : column * 32 + 32] = second.codes[entry]
            scales[row, column] = second.scales[entry]
    assert int(second.offsets[-1]) <= len(second.codes)
    assert np.array_equal(got[:rows, :k], wanted.codes.view(np.int8))
    assert not got[rows:].any()
    assert not got[:, k:].any()
    assert np.array_equal(scales, wanted.scales)


def test_of_equal_blocks_at_the_limit_none_falls_back() -> None:
    packed = pack_blocks(torch.ones(32, 64), BLOCK, OutlierBlocks(share=0.25))
    assert isinstance(packed.outliers, FallbackBlocks)
    assert packed.outliers.offsets.tolist() == [0, 0, 0]


#: What waits for the device to learn a number or an extent.
WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__index__")


def test_nothing_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("it waits for the device")

    x, w = drawn(9, 70), drawn(11, 70, 1)
    for name in WAITS:
        monkeypatch.setattr(torch.Tensor, name, refuse)
    pack_columns(x, w, ROW, OutlierColumns(), 64)
    pack_blocks(x, BLOCK, OutlierBlocks(share=0.5))
    with pytest.raises(AssertionError, match="waits"):
        quantize_torch(x, ROW)


def test_refuses_what_cannot_be_packed() -> None:
    x = torch.ones(3, 40)
    for capacity in (0, 16, 100):
        with pytest.raises(ValueError, match=f"capacity {capacity}: .* multiple of 64"):
            pack_columns(x, x, ROW, OutlierColumns(), capacity)
    with pytest.raises(ValueError, match="40 columns and weights 41"):
        pack_columns(x, torch.ones(3, 41), ROW, OutlierColumns(), 64)
    with pytest.raises(ValueError, match=r"int8\.row has no blocks"):
        pack_blocks(x, ROW, OutlierBlocks(share=0.5))
    for text in ("e4m3fn.row", "int8.row+sr", "int8.b1x32+e8m0fnu"):
        with pytest.raises(ValueError, match="int8 with fp32 absmax scales"):
            pack_columns(x, x, TensorFormat.parse(text), OutlierColumns(), 64)


@pytest.mark.parametrize("text", ["int8.row", "int8.tensor", "int8.b16x32"])
def test_zeros_tiny_values_nan_and_infinities_are_quantised_as_the_codec_does(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = drawn(40, 70)
    x[0], x[1] = 0, 1e-45
    x[2] *= 1e-38
    if text != "int8.tensor":
        x[20, 5] = torch.nan
    # A column with an infinity is kept, and a block with one has no scale.
    x[37, 64] = torch.inf
    wide = (x.abs() > 6).any(dim=0)
    if fmt.scaling is not None and fmt.scaling.cols is None:
        found = pack_columns(x, x, fmt, OutlierColumns(), 64)
        wanted = quantize_torch(x.masked_fill(wide, 0), fmt)
        assert isinstance(found.outliers, KeptColumns)
        assert found.outliers.a[37].isinf().sum() == 1
    else:
        found = pack_blocks(x, fmt, OutlierBlocks(share=0.2))
        wanted = quantize_torch(x, fmt)
    assert wanted[1] is not None
    assert torch.equal(found.codes, wanted[0])
    assert torch.equal(
        found.scales.view(torch.int32) & 0x7FFFFFFF, wanted[1].view(torch.int32) & 0x7FFFFFFF
    )
    assert found.scales.stride() == wanted[1].stride()
