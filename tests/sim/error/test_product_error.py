"""Errors of products: what happens to outliers, output and seeds."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sim.error import numpy_rounder, product_error, product_errors, sample
from sim.error.product import exact_product
from tiles.formats import TensorFormat
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe, recipe


def operands(kind: str, k: int = 512) -> tuple[np.ndarray, np.ndarray]:
    return sample(kind, 64, k), sample(kind, 48, k, side="weight")


def scalar_sqnr_db(product: np.ndarray, exact: np.ndarray) -> float:
    return 10 * math.log10((exact**2).sum() / ((product - exact) ** 2).sum())


def test_the_product_of_what_codes_stand_for() -> None:
    a, b = operands("laplace")
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    for name in ("e4m3-row", "int8-b128", "nvfp4"):
        one = recipe(name)
        rounded = numpy_rounder(a, one.activation, 0) @ numpy_rounder(b, one.weight, 0).T
        error = product_error(one, a, b, data="laplace")
        assert error.data == "laplace"
        assert error.accumulation == "exact"
        assert error.sqnr_db == pytest.approx(scalar_sqnr_db(rounded, exact), rel=1e-9)
        assert error.relative_rms == pytest.approx(10 ** (-error.sqnr_db / 20))
        rms = math.sqrt((exact**2).mean())
        assert error.relative_max == pytest.approx(np.abs(rounded - exact).max() / rms)


@pytest.mark.parametrize("shape", [(64, 48, 512), (3, 5, 100), (200, 200, 512)])
def test_small_and_large_products_are_the_same(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = sample("normal", m, k), sample("normal", n, k, side="weight")
    np.testing.assert_allclose(
        exact_product(a, b), np.einsum("mk,nk->mn", *(x.astype(np.float64) for x in (a, b)))
    )


def test_a_known_exact_product_is_taken() -> None:
    a, b = operands("normal")
    one = recipe("int8-row")
    assert product_error(one, a, b, exact=exact_product(a, b)) == product_error(one, a, b)
    assert product_error(one, a, b, exact=2 * exact_product(a, b)).sqnr_db < 7


def test_exact_formats_leave_no_error() -> None:
    a, b = operands("normal")
    fp32 = TensorFormat.parse("fp32")
    none = replace(recipe("bf16"), activation=fp32, weight=fp32)
    error = product_error(none, a, b)
    assert (error.sqnr_db, error.relative_max, error.relative_rms) == (math.inf, 0, 0)
    zeros = product_error(recipe("int8-row"), np.zeros_like(a), b)
    assert (zeros.sqnr_db, zeros.relative_max) == (math.inf, 0)


# Outlier columns.


def columns(threshold: float) -> Recipe:
    outliers = OutlierColumns(threshold=threshold)
    return replace(recipe("int8-row"), name="columns", outliers=outliers)


def test_outlier_columns_are_multiplied_in_sixteen_bits() -> None:
    """Against the decomposition written out: columns that some row exceeds 6 in, and the rest."""
    a, b = operands("outlier")
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    chosen = [j for j in range(a.shape[1]) if any(abs(v) > 6 for v in a[:, j].tolist())]
    assert 0 < len(chosen) < 8
    rest = a.copy()
    rest[:, chosen] = 0
    one = columns(6.0)
    low = numpy_rounder(rest, one.activation, 0) @ numpy_rounder(b, one.weight, 0).T
    high = (
        a[:, chosen].astype(np.float16).astype(np.float64)
        @ b[:, chosen].astype(np.float16).astype(np.float64).T
    )
    expected = scalar_sqnr_db(low + high, exact)
    assert product_error(one, a, b).sqnr_db == pytest.approx(expected, rel=1e-9)


def test_llm_int8_is_better_than_int8_rows_on_outliers_and_the_same_without() -> None:
    a, b = operands("outlier")
    plain, kept = recipe("int8-row"), recipe("llm-int8")
    assert product_error(kept, a, b).sqnr_db > product_error(plain, a, b).sqnr_db + 10
    a, b = operands("normal")
    assert product_error(kept, a, b).sqnr_db == product_error(plain, a, b).sqnr_db


def test_a_threshold_below_everything_leaves_the_kept_format() -> None:
    a, b = operands("normal")
    fp16 = product_error(recipe("fp16"), a, b)
    assert product_error(columns(1e-9), a, b).sqnr_db == pytest.approx(fp16.sqnr_db, rel=1e-9)


def test_outlier_columns_are_those_of_the_whole_tensor() -> None:
    a, b = operands("normal")
    below = a.copy()
    below[:, ::2] *= 10
    once = product_error(columns(6.0), a, b, whole=np.concatenate([a, below]))
    assert once.sqnr_db > product_error(columns(6.0), a, b).sqnr_db + 2


# Outlier blocks.


def blocks(share: float, scaling: str = "int8.b32x32") -> Recipe:
    fmt = TensorFormat.parse(scaling)
    return Recipe(
        name="blocks",
        activation=fmt,
        weight=TensorFormat.parse("fp32"),
        source="test",
        outliers=OutlierBlocks(share=share),
    )


def test_a_block_that_falls_back_has_sixteen_bits() -> None:
    """The one block that all of the noise comes from: its step shrinks 254 times, by 48 dB."""
    a, b = operands("normal")
    a[:32, 64:96] *= 100
    exact = exact_product(a, b)
    one = 1 / 32  # of 2 x 16 blocks
    without = replace(blocks(one), outliers=None)
    plain = product_error(without, a, b, exact=exact).sqnr_db
    saved = product_error(blocks(one), a, b, exact=exact).sqnr_db
    assert saved > plain + 20
    assert product_error(blocks(1), a, b, exact=exact).sqnr_db > saved + 20


def test_the_share_is_that_of_the_whole_tensor_s_blocks() -> None:
    """None of the first rows' blocks are among the largest fifth when others have the outliers."""
    a, b = operands("normal")
    whole = np.concatenate([a, 1000 * a])
    without = replace(blocks(0.2), outliers=None)
    plain = product_error(without, a, b).sqnr_db
    assert product_error(blocks(0.2), a, b, whole=whole).sqnr_db == plain
    assert product_error(blocks(0.2), a, b).sqnr_db > plain + 0.5


@pytest.mark.parametrize(("data", "gain_db"), [("normal", 0.5), ("outlier", 0.8)])
def test_int8_with_fallback_is_better_than_blocks_alone(data: str, gain_db: float) -> None:
    a = sample(data, 512, 1024)
    b = sample("normal", 64, 1024, side="weight")
    exact = exact_product(a, b)
    fallback, plain = (
        product_error(recipe(name), a, b, exact=exact).sqnr_db
        for name in ("int8-fallback", "int8-b128")
    )
    assert fallback > plain + gain_db


def test_the_residual_is_quantised_with_the_blocks_own_format() -> None:
    a, b = operands("normal", 128)
    a[:32, :32] *= 50
    fmt = TensorFormat.parse("int8.b32x32")
    once = numpy_rounder(a, fmt, 0)
    residual = np.zeros_like(a)
    residual[:32, :32] = (a - once)[:32, :32]
    rounded = once + numpy_rounder(residual, fmt, 0)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    expected = scalar_sqnr_db(rounded @ b.astype(np.float64).T, exact)
    assert product_error(blocks(1 / 8), a, b).sqnr_db == pytest.approx(expected, rel=1e-9)


def test_without_blocks_none_can_fall_back() -> None:
    a, b = operands("normal")
    with pytest.raises(ValueError, match="bf16 has no blocks, so no block of it can fall back"):
        product_error(blocks(0.2, "bf16"), a, b)


# Output and seeds.


def test_the_output_is_rounded_when_asked() -> None:
    a, b = operands("normal")
    one = replace(recipe("fp16"), output=TensorFormat.parse("e4m3fn"))
    assert product_error(one, a, b).sqnr_db > 60
    rounded = product_error(one, a, b, round_output=True)
    assert rounded.sqnr_db == pytest.approx(31.5, abs=0.3)
    assert product_errors(one, a, b) == (product_error(one, a, b), rounded)


def test_seeds_move_stochastic_rounding_alone_and_tensors_have_bits_of_their_own() -> None:
    a, b = operands("normal")
    sr = TensorFormat.parse("int8.row+sr")
    one = replace(recipe("int8-row"), activation=sr, weight=sr)
    assert product_error(one, a, b, seed=1) == product_error(one, a, b, seed=1)
    assert product_error(one, a, b, seed=1) != product_error(one, a, b, seed=2)
    assert product_error(recipe("int8-row"), a, b, seed=1) == product_error(
        recipe("int8-row"), a, b, seed=2
    )
    seen = []
    product_error(one, a, b, seed=2**64 - 1, rounder=lambda x, f, seed: (seen.append(seed), x)[1])
    assert len(set(seen)) == 2
    assert all(0 <= seed < 2**64 for seed in seen)


def test_bad_operands_are_refused() -> None:
    a, b = operands("normal")
    with pytest.raises(ValueError, match=r"shapes \(64, 512\) and \(48, 511\) do not multiply"):
        product_error(recipe("bf16"), a, b[:, :511])
    b[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"weights must be finite, got nan at \(3, 4\)"):
        product_error(recipe("bf16"), a, b)
    with pytest.raises(TypeError, match="activations: errors are those of float32 tensors"):
        product_error(recipe("bf16"), a.astype(np.float64), b)
