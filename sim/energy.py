"""Power and energy of a launch, among others and where its like last for seconds.

A launch takes what the board draws whatever runs on it, for as long as it runs, and what its bytes,
products and instructions take.  Where that exceeds the board's limit a launch by itself does not
mind: the limit holds a mean over some tens of milliseconds.  Where its like last for seconds it
does, and they take the longer for it: :attr:`LaunchEnergy.sustained_time_us` is the time of a
launch or its energy by the limit, whichever is longer.  Large products have paid already: their
predicted time is that of the clock under the limit (:mod:`sim.clock`), at which they draw it whole.

What cores take is the clock model's.  What the board draws whatever runs is a guess.  What a byte
of DRAM takes is set on one row of ``evidence/h200/energy.json``, that of int8.row: its energy less
the guess for the time that it took and the cores' share.  The other seven rows are held out; the
two streams among them are met within 9 % by the same sum.  In all eight the device waited between
launches (docs/energy.md), so none says what launches back to back take.

Left out: that a lower clock needs less voltage, where the limit slows a stream down.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.clock import BASE_SHARE, cores_share
from sim.gpu import Gpu
from sim.prediction import Prediction, PricedTable
from tiles.kernels import NumericPath
from tiles.problems import Problem

__all__ = [
    "LaunchEnergy",
    "PricedEnergy",
    "bytes_mj",
    "energy_interval",
    "launch_energy",
    "priced_energy",
    "sustained_time_us",
]

F64 = NDArray[np.float64]

#: What the board draws while a launch is on it, whatever that does, as a share of its limit: a
#: guess, set on no reading.
AT_WORK = 0.25
#: Of a byte from or to DRAM, with its way over the chip, in picojoules; set on one row, see above.
DRAM_PJ_PER_BYTE = 106.0

#: Logarithm of the half-width of power's 90 % interval: half of the readings of launches of 0.2 ms
#: and more are within 14 % (docs/energy.md), 0.67 standard deviations of a normal distribution.
LOG_HALF_WIDTH = 0.14 / 0.6745 * 1.6449


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnergy:
    """What one launch is predicted to take from the board's supply."""

    energy_mj: float  #: millijoules
    power_w: float  #: mean where its like last for seconds, at most the board's limit
    sustained_time_us: float  #: of a launch there: its time, or longer at the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedEnergy:
    """The same of a table of configurations, row by row."""

    energy_mj: F64
    low_mj: F64  #: lower ends of 90 % intervals: those of the times, widened by power's own
    high_mj: F64
    power_w: F64
    sustained_time_us: F64


def launch_energy(prediction: Prediction, gpu: Gpu) -> LaunchEnergy:
    """Energy of a predicted launch.

    Args:
        prediction: of any problem; its terms say how busy tensor and CUDA cores are.
        gpu: that it was made for.
    """
    time_us = np.asarray(prediction.time_us)
    terms = {name: np.asarray(term) for name, term in prediction.terms_us.items()}
    energy_mj = _energy_mj(
        prediction.problem,
        prediction.path,
        time_us,
        terms,
        dram_bytes=np.asarray(prediction.dram_read_bytes + prediction.dram_write_bytes),
        gpu=gpu,
    )
    lasting_us = sustained_time_us(time_us, energy_mj, gpu)
    return LaunchEnergy(
        energy_mj=float(energy_mj),
        power_w=float(1e3 * energy_mj / lasting_us),
        sustained_time_us=float(lasting_us),
    )


def priced_energy(priced: PricedTable, gpu: Gpu) -> PricedEnergy:
    """Energy of every configuration of a priced table, by the same model."""
    time_us = priced.time_us
    energy_mj = _energy_mj(
        priced.problem,
        priced.path,
        time_us,
        priced.terms_us,
        dram_bytes=priced.dram_read_bytes + priced.dram_write_bytes,
        gpu=gpu,
    )
    low_mj, high_mj = energy_interval(energy_mj, time_us, priced.low_us, priced.high_us)
    lasting_us = sustained_time_us(time_us, energy_mj, gpu)
    return PricedEnergy(
        energy_mj=energy_mj,
        low_mj=low_mj,
        high_mj=high_mj,
        power_w=1e3 * energy_mj / lasting_us,
        sustained_time_us=lasting_us,
    )


def energy_interval(energy_mj: F64, time_us: F64, low_us: F64, high_us: F64) -> tuple[F64, F64]:
    """90 % intervals of predicted energies, from those of the times and power's own."""
    low, high = (
        np.exp(np.hypot(np.log(ends / time_us), LOG_HALF_WIDTH)) for ends in (low_us, high_us)
    )
    return energy_mj / low, energy_mj * high


def sustained_time_us(time_us: F64, energy_mj: F64, gpu: Gpu) -> F64:
    """Microseconds a launch where its like follow one another for seconds.

    Args:
        time_us: of a launch among others.
        energy_mj: that it takes.
    """
    longest: F64 = np.maximum(time_us, 1e3 * energy_mj / gpu.tdp_w)
    return longest


def bytes_mj(dram_bytes: F64) -> F64:
    """Millijoules of bytes from and to DRAM."""
    found: F64 = DRAM_PJ_PER_BYTE * dram_bytes / 1e9
    return found


def _energy_mj(
    problem: Problem,
    path: NumericPath,
    time_us: F64,
    terms_us: Mapping[str, F64],
    *,
    dram_bytes: F64,
    gpu: Gpu,
) -> F64:
    recipe = getattr(problem, "recipe", None)
    element = "fp16"
    if recipe is not None and path is NumericPath.NATIVE:
        element = recipe.activation.element.name
    none = np.zeros_like(time_us)
    cores = cores_share(
        element=element,
        tensor_busy=terms_us.get("tensor", none) / time_us,
        cuda_cores_busy=terms_us.get("cuda_cores", none) / time_us,
    )
    over = gpu.max_clock_mhz / gpu.sustained_clock_mhz
    drawn_w = gpu.tdp_w * (AT_WORK + over * cores)
    energy_mj = drawn_w * time_us / 1e3 + bytes_mj(dram_bytes)
    held = over * (BASE_SHARE + cores) >= 1.0  # the clock has fallen until power met the limit
    found: F64 = np.where(held, gpu.tdp_w * time_us / 1e3, energy_mj)
    return found
