"""Numerical error of formats and recipes: of tensors, of products, measured and expected."""

from typing import TYPE_CHECKING, Any

from sim.error.accumulation import Accumulation
from sim.error.datasets import DATA_KINDS, sample
from sim.error.outliers import OutlierError, outlier_error
from sim.error.product import MatmulError, product_error, product_errors
from sim.error.rounding import Rounder, numpy_rounder
from sim.error.small_product import matmul_error
from sim.error.tensor import BeyondRangeError, ErrorSums, TensorError, tensor_error

if TYPE_CHECKING:
    from sim.error.expected import expected_sqnr_db

__all__ = [
    "DATA_KINDS",
    "Accumulation",
    "BeyondRangeError",
    "ErrorSums",
    "MatmulError",
    "OutlierError",
    "Rounder",
    "TensorError",
    "expected_sqnr_db",
    "matmul_error",
    "numpy_rounder",
    "outlier_error",
    "product_error",
    "product_errors",
    "sample",
    "tensor_error",
]


def __getattr__(name: str) -> Any:
    # Predictions need none of the densities behind it.
    if name != "expected_sqnr_db":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sim.error.expected import expected_sqnr_db

    return expected_sqnr_db
