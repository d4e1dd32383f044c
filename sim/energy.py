"""Power and energy of a launch, by the power model that sets the clock.

:mod:`sim.clock` says what share of the board's limit a launch would draw at the sustained clock;
power goes with the clock, and never beyond the limit.  So a launch that the limit slows down draws
all of it, and one that waits for memory about what the tensor cores leave of it.

A prior, held against no energy counter: NVML's power readings beside 1559 measurements of a tenth
of a second (``data/h200/sweeps``) lag behind the launches; for those above a millisecond it is off
by 11 % in the middle (docs/energy.md).  Left out: what memory draws, and what a launch too short
to fill the GPU leaves idle, whose power this overrates.  ``python -m bench.energy`` measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.clock import drawn_share
from sim.gpu import Gpu
from sim.prediction import Prediction, PricedTable
from tiles.kernels import NumericPath
from tiles.problems import Problem

__all__ = ["LaunchEnergy", "PricedEnergy", "energy_interval", "launch_energy", "priced_energy"]

F64 = NDArray[np.float64]

#: Logarithm of the half-width of power's 90 % interval: half of the readings of launches of 0.2 ms
#: and more are within 14 % (docs/energy.md), 0.67 standard deviations of a normal distribution.
LOG_HALF_WIDTH = 0.14 / 0.6745 * 1.6449


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnergy:
    """What one launch is predicted to take from the board's supply."""

    power_w: float  #: mean, at most the board's limit
    energy_mj: float  #: millijoules


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedEnergy:
    """The same of a table of configurations, row by row."""

    power_w: F64
    energy_mj: F64
    low_mj: F64  #: lower ends of 90 % intervals: those of the times, widened by power's own
    high_mj: F64


def launch_energy(prediction: Prediction, gpu: Gpu) -> LaunchEnergy:
    """Power and energy of a predicted launch.

    Args:
        prediction: of any problem; its terms say how busy tensor and CUDA cores are.
        gpu: that it was made for.
    """
    time_us = np.asarray(prediction.time_us)
    terms = {name: np.asarray(term) for name, term in prediction.terms_us.items()}
    power_w = float(_power_w(prediction.problem, prediction.path, time_us, terms, gpu))
    return LaunchEnergy(power_w=power_w, energy_mj=power_w * prediction.time_us / 1e3)


def priced_energy(priced: PricedTable, gpu: Gpu) -> PricedEnergy:
    """Power and energy of every configuration of a priced table, by the same model."""
    time_us = priced.time_us
    power_w = _power_w(priced.problem, priced.path, time_us, priced.terms_us, gpu)
    energy_mj = power_w * time_us / 1e3
    low_mj, high_mj = energy_interval(energy_mj, time_us, priced.low_us, priced.high_us)
    return PricedEnergy(power_w=power_w, energy_mj=energy_mj, low_mj=low_mj, high_mj=high_mj)


def energy_interval(energy_mj: F64, time_us: F64, low_us: F64, high_us: F64) -> tuple[F64, F64]:
    """90 % intervals of predicted energies, from those of the times and power's own."""
    low, high = (
        np.exp(np.hypot(np.log(ends / time_us), LOG_HALF_WIDTH)) for ends in (low_us, high_us)
    )
    return energy_mj / low, energy_mj * high


def _power_w(
    problem: Problem, path: NumericPath, time_us: F64, terms_us: Mapping[str, F64], gpu: Gpu
) -> F64:
    recipe = getattr(problem, "recipe", None)
    element = "fp16"
    if recipe is not None and path is NumericPath.NATIVE:
        element = recipe.activation.element.name
    none = np.zeros_like(time_us)
    drawn = drawn_share(
        element=element,
        tensor_busy=terms_us.get("tensor", none) / time_us,
        cuda_cores_busy=terms_us.get("cuda_cores", none) / time_us,
    )
    over = gpu.max_clock_mhz / gpu.sustained_clock_mhz
    power_w: F64 = gpu.tdp_w * np.minimum(1.0, over * drawn)
    return power_w
