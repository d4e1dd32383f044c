"""Outliers that are stored apart: error and bits of the tensor as a whole."""

import numpy as np
import pytest

from sim.error import numpy_rounder, outlier_error, sample, tensor_error
from sim.error.outliers import fallback_amax, kept_columns
from tiles.formats import TensorFormat, decode, element, encode
from tiles.recipes import OutlierBlocks, OutlierColumns

ROW = TensorFormat.parse("int8.row")
BLOCK = TensorFormat.parse("int8.b32x32")


def test_kept_columns_have_the_error_of_their_own_format() -> None:
    x = sample("normal", 32, 64)
    x[:, [3, 40]] *= 50
    found = outlier_error(x, ROW, OutlierColumns(), numpy_rounder)
    rest = x.copy()
    rest[:, [3, 40]] = 0
    rounded = numpy_rounder(rest, ROW)
    rounded[:, [3, 40]] = decode(encode(x[:, [3, 40]], element("fp16")), element("fp16"))
    noise = float(((rounded - x) ** 2).sum())
    signal = float((x.astype(np.float64) ** 2).sum())
    assert found.error.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert found.error.count == x.size
    assert found.bits_per_element == (2 * 16 + 62 * 8 + 32) / 64


def test_a_column_is_kept_above_the_threshold_not_at_it() -> None:
    above = np.nextafter(np.float32(6), np.float32(7))
    a = np.array([[6, -6, above, 0], [1, 2, 3, -above]], np.float32)
    assert kept_columns(a, OutlierColumns()).tolist() == [False, False, True, True]


def test_the_share_of_blocks_is_rounded_up_and_equal_blocks_stay_together() -> None:
    fmt = TensorFormat.parse("int8.b1x1")
    a = np.array([[5, 4, 3, 2, 1]], np.float32)
    for share, stays in ((0.2, 4), (0.21, 3), (0.4, 3), (0.41, 2), (1.0, 0)):
        assert fallback_amax(a, fmt, OutlierBlocks(share=share)) == stays
    a[0, 1] = a[0, 2]  # 5 3 3 2 1: the second place is shared, so neither of the two falls back
    limit = fallback_amax(a, fmt, OutlierBlocks(share=0.4))
    assert (a > limit).tolist() == [[True, False, False, False, False]]


def test_without_outliers_it_is_the_format_s_own_error() -> None:
    x = sample("normal", 32, 64)
    found = outlier_error(x, ROW, OutlierColumns(threshold=100), numpy_rounder)
    assert found.error == tensor_error(x, ROW)
    assert found.bits_per_element == 8 * ROW.storage_bytes(32, 64) / x.size


def test_a_tensor_of_kept_columns_alone_has_no_other_storage() -> None:
    x = sample("normal", 8, 8)
    found = outlier_error(x, ROW, OutlierColumns(threshold=1e-9), numpy_rounder)
    assert found.error.sqnr_db == tensor_error(x, TensorFormat.parse("fp16")).sqnr_db
    assert found.bits_per_element == 16


def test_blocks_that_fall_back_are_stored_twice() -> None:
    x = sample("normal", 64, 64)
    x[:32, :32] *= 40
    found = outlier_error(x, BLOCK, OutlierBlocks(share=0.25), numpy_rounder)
    once = 8 * BLOCK.storage_bytes(64, 64) / x.size
    assert found.bits_per_element == 1.25 * once
    assert found.error.sqnr_db > tensor_error(x, BLOCK).sqnr_db + 20
    every = outlier_error(x, BLOCK, OutlierBlocks(share=1), numpy_rounder)
    assert every.bits_per_element == 2 * once
    # A step of 1 / 254 of the first one: 20 log10 254 = 48 dB.
    assert every.error.sqnr_db == pytest.approx(tensor_error(x, BLOCK).sqnr_db + 48, abs=1.5)
