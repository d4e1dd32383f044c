"""Formats run at the rate that a GPU has for them, on the path that its kernels take."""

from functools import cache

import numpy as np
import pytest

import sim
from sim.interval import UNMEASURED_EXTRA, interval_us
from tiles.kernels import NumericPath, kernels
from tiles.problems import parse_problem

LARGE = "8192x8192x8192"


@cache
def best(recipe: str, gpu: str, shape: str = LARGE) -> sim.Prediction:
    """The fastest family's prediction."""
    problem, target = parse_problem(f"gemm:{shape}:{recipe}:bf16"), sim.load_gpu(gpu)
    found = []
    for family in kernels().values():
        if family.refusal(problem, target.limits) is None:
            legal = family.legal_space(problem, target.limits).accepted
            found.append(sim.price(problem, family, legal, target).best())
    return min(found, key=lambda one: one.time_us)


@pytest.mark.parametrize(
    ("recipe", "gpu", "native"),
    [
        ("mxfp8-e4m3", "b200", True),
        ("mxfp8-e4m3", "b300", True),
        ("mxfp8-e4m3", "mi355x", True),
        ("mxfp8-e4m3", "l40s", False),
        ("mxfp4", "b200", True),
        ("mxfp4", "b300", True),
        ("mxfp4", "mi355x", True),
        ("mxfp4", "h200", False),
        ("nvfp4", "b300", True),
        ("mxfp6-e3m2", "b200", False),  # the tensor cores could, no kernel asks them
        ("e4m3-row", "l40s", True),
        ("e4m3-row", "h20", True),
        ("e4m3-row", "mi355x", True),
        ("e4m3-row", "a100", False),
        ("e4m3-row", "rtx3090", False),
        ("int8-row", "rtx3090", True),
    ],
)
def test_a_format_runs_natively_where_it_can(recipe: str, gpu: str, native: bool) -> None:
    path = NumericPath.NATIVE if native else NumericPath.EMULATED
    assert best(recipe, gpu).path is path


@pytest.mark.parametrize(
    ("recipe", "gpu"),
    [
        ("bf16", "h20"),
        ("e4m3-row", "h20"),
        ("int8-row", "rtx3090"),
        ("mxfp8-e4m3", "b200"),
        ("mxfp4", "b300"),
        ("int8-row", "b300"),
        ("mxfp4", "mi355x"),
    ],
)
def test_no_product_beats_the_peak_of_its_elements(recipe: str, gpu: str) -> None:
    one, target = best(recipe, gpu), sim.load_gpu(gpu)
    element = {"bf16": "bf16", "int8-row": "int8", "mxfp4": "e2m1fn"}.get(recipe, "e4m3fn")
    peak = target.tensor_flop_per_clk[element] * target.sm_count * target.max_clock_mhz / 1e6
    assert 0.15 * peak < one.tflops < peak


def test_four_bits_are_faster_than_eight_where_tensor_cores_take_their_scales() -> None:
    for gpu in ("b200", "b300", "mi355x"):
        assert best("mxfp4", gpu).time_us < 0.8 * best("mxfp8-e4m3", gpu).time_us


def test_codes_of_four_bits_move_half_the_bytes() -> None:
    decode = "64x16384x16384"
    four, eight = (best(name, "b200", decode) for name in ("mxfp4", "mxfp8-e4m3"))
    ratio = eight.dram_read_bytes / four.dram_read_bytes
    assert ratio == pytest.approx(8.25 / 4.25, rel=0.02)


def test_block_scales_of_the_hardware_cost_no_promotion() -> None:
    """The same bits with fp32 scales are promoted on the CUDA cores every 128 of K."""
    for gpu in ("b200", "b300", "mi355x"):
        assert best("mxfp8-e4m3", gpu).time_us < 0.9 * best("deepseek-fp8", gpu).time_us


def test_integers_are_not_eight_bit_floats_on_a_b300() -> None:
    assert best("int8-row", "b300").time_us > 5 * best("bf16", "b300").time_us
    # Few units, but no slow path to them: mma.sync keeps them busy.
    board, units = sim.load_gpu("b300"), 546 * 160
    assert best("int8-row", "b300").tflops > 0.8 * units * board.sustained_clock_mhz / 1e6
    assert best("int8-row", "b200").time_us < 1.5 * best("bf16", "b200").time_us
    assert best("e4m3-row", "b300").time_us < 0.7 * best("bf16", "b300").time_us


def test_a_gpu_without_measured_figures_has_wider_intervals() -> None:
    for gpu in sim.gpu_names():
        one = best("bf16", gpu)
        assert one.low_us < one.time_us < one.high_us
        ratio = one.high_us / one.time_us
        assert (ratio < 1.4) is (gpu == "h200"), gpu


def test_the_extra_width_is_a_factor_on_either_side() -> None:
    time_us, terms = np.array([10.0]), {"tensor": np.array([9.0])}
    low, high = interval_us(time_us, terms, NumericPath.NATIVE, measured=True)
    wider_low, wider_high = interval_us(time_us, terms, NumericPath.NATIVE, measured=False)
    factor = np.exp(UNMEASURED_EXTRA)
    assert wider_low == pytest.approx(low / factor)
    assert wider_high == pytest.approx(high * factor)
