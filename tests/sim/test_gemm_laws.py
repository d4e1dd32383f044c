"""Laws of the GEMM model on any shape and GPU: finite prices, more hardware is never slower."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from priced_gemms import H200, KERNEL, gemm, legal

import sim
from sim.interval import LOG_HALF_WIDTH
from tiles.kernels import ConfigTable
from tiles.problems import Gemm
from tiles.recipes import RECIPES

SHAPES = st.tuples(*[st.one_of(st.integers(1, 300), st.integers(1, 9000))] * 3)
GPUS = st.sampled_from(sim.gpu_names())
#: Recipes whose product the kernel computes, on every GPU of the catalogue.
SERVED = sorted(
    name for name in RECIPES if KERNEL.refusal(gemm(64, 64, 64, name), H200.limits) is None
)
NAMES = st.sampled_from(SERVED)


def some_legal(problem: Gemm, gpu: sim.Gpu, seed: int) -> ConfigTable:
    table = legal(problem, gpu)
    return table.take(np.random.default_rng(seed).integers(0, len(table), 100))


@given(shape=SHAPES, name=NAMES, gpu=GPUS, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_legal_configuration_has_a_finite_positive_price(
    shape: tuple[int, int, int], name: str, gpu: str, seed: int
) -> None:
    problem, machine = gemm(*shape, name), sim.load_gpu(gpu)
    priced = sim.price(problem, KERNEL, some_legal(problem, machine, seed), machine)
    for column in (priced.time_us, *priced.terms_us.values()):
        assert column.shape == (100,)
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    assert (0 < priced.low_us).all()
    assert (priced.low_us < priced.time_us).all()
    assert (priced.time_us < priced.high_us).all()
    # Nothing takes less than its largest term, and none of the operands is read less than once.
    largest = np.max(np.stack(list(priced.terms_us.values())), axis=0)
    assert (priced.time_us >= largest * (1 - 1e-9)).all()
    written = shape[0] * shape[1] * 2
    assert (priced.dram_write_bytes == written).all()
    assert (priced.dram_read_bytes >= (problem.min_bytes - written) * (1 - 1e-12)).all()
    assert set(priced.terms_us) <= set(LOG_HALF_WIDTH)


@given(shape=SHAPES, name=NAMES, gpu=GPUS, seed=st.integers(0, 99), factor=st.floats(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_more_bandwidth_and_a_higher_clock_are_never_slower(
    shape: tuple[int, int, int], name: str, gpu: str, seed: int, factor: float
) -> None:
    problem, machine = gemm(*shape, name), sim.load_gpu(gpu)
    table = some_legal(problem, machine, seed)
    base = sim.price(problem, KERNEL, table, machine).time_us
    for better in (
        replace(
            machine,
            dram_read_gb_per_s=machine.dram_read_gb_per_s * factor,
            dram_copy_gb_per_s=machine.dram_copy_gb_per_s * factor,
        ),
        replace(machine, l2_read_gb_per_s=machine.l2_read_gb_per_s * factor),
        replace(machine, sustained_clock_mhz=machine.sustained_clock_mhz * factor),
    ):
        assert (sim.price(problem, KERNEL, table, better).time_us <= base * (1 + 1e-9)).all()


@given(shape=SHAPES, name=NAMES, gpu=GPUS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_more_sms_and_smaller_problems_are_never_slower_at_their_best(
    shape: tuple[int, int, int], name: str, gpu: str
) -> None:
    """Of the best configuration: a given one may fall badly into waves, in life as here."""
    problem, machine = gemm(*shape, name), sim.load_gpu(gpu)
    table = legal(problem, machine)
    base = sim.price(problem, KERNEL, table, machine).time_us.min()
    more = replace(machine, sm_count=machine.sm_count * 2)
    # Twice the SMs share the same L2: what a wave evicts may cost a per cent.
    assert sim.price(problem, KERNEL, table, more).time_us.min() <= base * 1.02
    for doubled in (replace(problem, m=2 * problem.m), replace(problem, n=2 * problem.n)):
        assert sim.price(doubled, KERNEL, table, machine).time_us.min() >= base * 0.98
