"""Hardware simulation: GPU data files, the cost model, and the error of quantised products."""

from sim.cost import Cost
from sim.error import MatmulError, matmul_error
from sim.gpu import Gpu
from sim.gpu_file import gpu_names, load_gpu, parse_gpu
from sim.model import CostModel, price, unpriced
from sim.prediction import Prediction, PricedTable
from sim.roofline import roofline

__all__ = [
    "Cost",
    "CostModel",
    "Gpu",
    "MatmulError",
    "Prediction",
    "PricedTable",
    "gpu_names",
    "load_gpu",
    "matmul_error",
    "parse_gpu",
    "price",
    "roofline",
    "unpriced",
]
