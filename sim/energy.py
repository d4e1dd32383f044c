"""Power and energy of a launch, by the power model that sets the clock.

:mod:`sim.clock` says what share of the board's limit a launch would draw at the sustained clock;
power goes with the clock, and never beyond the limit.  So a launch that the limit slows down draws
all of it, and one that waits for memory about what the tensor cores leave of it.

A prior, held against no energy counter: NVML's power readings beside 1559 measurements of a tenth
of a second (``data/h200/sweeps``) lag behind the launches; for those above a millisecond it is off
by 11 % in the middle (docs/energy.md).  Left out: what memory draws, and what a launch too short
to fill the GPU leaves idle, whose power this overrates.  ``python -m bench.energy`` measures.
"""

from dataclasses import dataclass

import numpy as np

from sim.clock import drawn_share
from sim.gpu import Gpu
from sim.prediction import Prediction
from tiles.kernels import NumericPath

__all__ = ["LaunchEnergy", "launch_energy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnergy:
    """What one launch is predicted to take from the board's supply."""

    power_w: float  #: mean, at most the board's limit
    energy_mj: float  #: millijoules


def launch_energy(prediction: Prediction, gpu: Gpu) -> LaunchEnergy:
    """Power and energy of a predicted launch.

    Args:
        prediction: of any problem; its terms say how busy tensor and CUDA cores are.
        gpu: that it was made for.
    """
    recipe = getattr(prediction.problem, "recipe", None)
    element = "fp16"
    if recipe is not None and prediction.path is NumericPath.NATIVE:
        element = recipe.activation.element.name
    time_us = prediction.time_us

    def busy(term: str) -> np.float64:
        return np.float64(prediction.terms_us.get(term, 0.0) / time_us)

    drawn = drawn_share(
        element=element,
        tensor_busy=np.asarray(busy("tensor")),
        cuda_cores_busy=np.asarray(busy("cuda_cores")),
    )
    over = gpu.max_clock_mhz / gpu.sustained_clock_mhz
    power_w = gpu.tdp_w * min(1.0, over * float(drawn))
    return LaunchEnergy(power_w=power_w, energy_mj=power_w * time_us / 1e3)
