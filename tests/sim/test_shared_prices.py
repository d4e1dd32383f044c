"""What recipes share is computed once, and comes out as if nothing were shared."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from sim import decoded_model, traffic
from tiles.kernels import ConfigTable
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.decoded_gemm import TritonDecodedGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

KERNEL = TritonDecodedGemm()
H200 = sim.load_gpu("h200")
#: Four recipes that multiply in fp16 or bf16, two shapes, two outputs.
PROBLEMS = [
    Gemm(m=m, n=1024, k=2048, recipe=recipe(name), out=out)
    for m in (64, 1000)
    for name in ("mxfp8-e4m3", "mxfp4", "nvfp4", "ffp8", "posit8")
    for out in ("bf16", "fp32")
]


def forget() -> None:
    decoded_model._INNER.clear()
    traffic._KNOWN.clear()


def priced(problem: Gemm, gpu: sim.Gpu = H200) -> sim.PricedTable:
    table = KERNEL.legal_space(problem, gpu.limits).accepted
    return sim.price(problem, KERNEL, table, gpu)


def assert_equal(one: sim.PricedTable, other: sim.PricedTable) -> None:
    for name in ("time_us", "low_us", "high_us", "dram_read_bytes", "l2_read_bytes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.terms_us.keys() == other.terms_us.keys()
    for name, column in one.terms_us.items():
        np.testing.assert_array_equal(column, other.terms_us[name])


def test_a_price_does_not_depend_on_what_was_priced_before() -> None:
    alone = []
    for problem in PROBLEMS:
        forget()
        alone.append(priced(problem))
    forget()
    for problem, expected in zip(PROBLEMS, alone, strict=True):
        assert_equal(priced(problem), expected)
    for problem, expected in zip(reversed(PROBLEMS), reversed(alone), strict=True):
        assert_equal(priced(problem), expected)


def test_another_gpu_of_the_same_name_has_prices_of_its_own() -> None:
    forget()
    slow = replace(H200, sustained_clock_mhz=H200.sustained_clock_mhz / 2)
    first, second = priced(PROBLEMS[0]), priced(PROBLEMS[0], slow)
    forget()
    assert_equal(second, priced(PROBLEMS[0], slow))
    assert first.time_us.min() < second.time_us.min()


def test_compiled_rows_are_not_shared() -> None:
    problem = PROBLEMS[0]
    table = KERNEL.legal_space(problem, H200.limits).accepted
    row = int(np.flatnonzero(table["staged"])[0])
    plain = priced(problem)
    spilled = CompileFacts(
        compiler="triton 3.7.1",
        target="sm_90",
        threads=128,
        smem_bytes=200_000,
        registers=255,
        stack_bytes=4096,
        pipeline_depth=3,
        mma="wgmma",
    )
    known = sim.price(problem, KERNEL, table, H200, {row: spilled})
    assert known.time_us[row] > plain.time_us[row]
    assert_equal(priced(problem), plain)


def test_a_table_of_other_rows_has_prices_of_its_own() -> None:
    problem = PROBLEMS[0]
    table = KERNEL.legal_space(problem, H200.limits).accepted
    whole = sim.price(problem, KERNEL, table, H200)
    backwards = np.arange(len(table))[::-1]
    other: ConfigTable = table.take(backwards)
    reverse = sim.price(problem, KERNEL, other, H200)
    np.testing.assert_array_equal(reverse.time_us, whole.time_us[backwards])


@pytest.mark.parametrize("most", [0, 100])
def test_footprints_that_are_forgotten_are_counted_again(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    expected = [priced(problem) for problem in PROBLEMS[:4]]
    forget()
    monkeypatch.setattr(traffic, "_MOST_KNOWN", most)
    decoded_model._INNER.clear()
    for problem, one in zip(PROBLEMS[:4], expected, strict=True):
        assert_equal(priced(problem), one)
