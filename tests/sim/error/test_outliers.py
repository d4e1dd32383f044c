"""Outliers that are stored apart: error and bits of the tensor as a whole."""

import numpy as np
import pytest

from sim.error import numpy_rounder, outlier_error, sample, tensor_error
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
