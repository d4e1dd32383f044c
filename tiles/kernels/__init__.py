"""Kernel families: descriptors here, templates in ``triton/`` and ``cuda/``."""

from tiles.kernels.base import (
    Accepted,
    Accuracy,
    Backend,
    Kernel,
    LegalSpace,
    Limits,
    NumericPath,
    Rejected,
    Status,
    Workload,
)
from tiles.kernels.config import TileConfig
from tiles.kernels.refusals import telling
from tiles.kernels.registry import kernel, kernels
from tiles.kernels.table import ConfigTable, Rule

__all__ = [
    "Accepted",
    "Accuracy",
    "Backend",
    "ConfigTable",
    "Kernel",
    "LegalSpace",
    "Limits",
    "NumericPath",
    "Rejected",
    "Rule",
    "Status",
    "TileConfig",
    "Workload",
    "kernel",
    "kernels",
    "telling",
]
