"""Compile facts in the cost model: they replace estimates, row by row, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from tiles.formats import TensorFormat
from tiles.kernels import ConfigTable, Kernel, kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import recipe

H200 = sim.load_gpu("h200")
LEAN = CompileFacts(
    compiler="test",
    target="sm_90",
    threads=128,
    smem_bytes=1024,
    registers=32,
    stack_bytes=0,
    pipeline_depth=0,
    mma="",
)
PROBLEMS: list[tuple[str, Problem]] = [
    ("triton_gemm", Gemm(m=4096, n=4096, k=4096, recipe=recipe("bf16"))),
    ("triton_quantize", Quantize(rows=4096, cols=4096, target=TensorFormat.parse("int8.b32x32"))),
]


def rows(family: Kernel, problem: Problem, count: int = 64) -> ConfigTable:
    table = family.legal_space(problem, H200.limits).accepted
    return table.take(np.linspace(0, len(table) - 1, count).astype(np.int64))


@pytest.mark.parametrize(("name", "problem"), PROBLEMS)
def test_facts_change_the_rows_that_were_compiled_and_no_other(name: str, problem: Problem) -> None:
    family = kernel(name)
    table = rows(family, problem)
    estimated = sim.price(problem, family, table, H200).time_us
    crowded = replace(LEAN, registers=255, smem_bytes=220_000)
    known = sim.price(problem, family, table, H200, {3: crowded, 10: LEAN}).time_us
    others = ~np.isin(np.arange(len(table)), (3, 10))
    np.testing.assert_array_equal(known[others], estimated[others])
    # One crowded CTA an SM can be no faster than the lean ones of the same configuration.
    every = dict.fromkeys(range(len(table)), LEAN)
    lean = sim.price(problem, family, table, H200, every).time_us
    full = sim.price(problem, family, table, H200, dict.fromkeys(every, crowded)).time_us
    assert (full >= lean * (1 - 1e-9)).all()
    assert (full > lean * 1.01).any()


def test_spilled_registers_cost_time() -> None:
    name, problem = PROBLEMS[0]
    family = kernel(name)
    table = rows(family, problem)
    plain = dict.fromkeys(range(len(table)), replace(LEAN, registers=255))
    spilled = dict.fromkeys(plain, replace(LEAN, registers=255, stack_bytes=800))
    fits = sim.price(problem, family, table, H200, plain).time_us
    spills = sim.price(problem, family, table, H200, spilled).time_us
    assert (spills >= fits).all()
    assert (spills > fits).any()


def test_facts_of_a_row_that_is_not_there_are_refused() -> None:
    name, problem = PROBLEMS[0]
    table = rows(kernel(name), problem, 4)
    with pytest.raises(ValueError, match="compile facts of row 4: the table has 4 rows"):
        sim.price(problem, kernel(name), table, H200, {4: LEAN})
