"""The functions that packages can have, by the kernel families that they launch."""

from tiles.problems import Problem
from workbench.emission.function import Function
from workbench.emission.functions.batched_gemm import BatchedGemmFunction
from workbench.emission.functions.dataflow import DataflowFunction
from workbench.emission.functions.dequantize import DequantizeFunction
from workbench.emission.functions.gemm import GemmFunction
from workbench.emission.functions.gemm_outliers import OutlierGemmFunction
from workbench.emission.functions.gemm_packed import PackedGemmFunction
from workbench.emission.functions.gemm_quantized import QuantizedGemmFunction
from workbench.emission.functions.grouped_gemm import GroupedGemmFunction
from workbench.emission.functions.quantize import QuantizeFunction
from workbench.emission.functions.quantize_packed import QuantizePackedFunction
from workbench.emission.functions.transpose import TransposeFunction
from workbench.emission.functions.weight_only import WeightOnlyFunction

__all__ = ["EMITTED", "FUNCTIONS", "function_of"]

FUNCTIONS: tuple[Function, ...] = (
    GemmFunction(),
    QuantizeFunction(),
    WeightOnlyFunction(),
    PackedGemmFunction(),
    QuantizePackedFunction(),
    QuantizedGemmFunction(),
    GroupedGemmFunction(),
    BatchedGemmFunction(),
    OutlierGemmFunction(),
    DequantizeFunction(),
    TransposeFunction(),
    DataflowFunction(),
)
#: Kernel families that some function launches.
EMITTED = tuple(dict.fromkeys(family for one in FUNCTIONS for family in one.families))


def function_of(family: str, problem: Problem) -> Function | None:
    """The function that a study of this family and problem belongs to."""
    return next((one for one in FUNCTIONS if one.serves(family, problem)), None)
