"""Calibration: the cost model's constants fitted to one GPU, with a residual and intervals."""

from sim.calibration.record import Calibration, FamilyCalibration

__all__ = ["Calibration", "FamilyCalibration"]
