"""The checks of every function that a package can have, by the function's name."""

from workbench.verification.batched_gemm_function import BatchedGemmFunctionChecks
from workbench.verification.dataflow_function import DataflowFunctionChecks
from workbench.verification.dequantize_function import DequantizeFunctionChecks
from workbench.verification.function_checks import FunctionChecks
from workbench.verification.gemm_function import GemmFunctionChecks
from workbench.verification.gemm_outliers_function import OutlierGemmFunctionChecks
from workbench.verification.gemm_packed_function import PackedGemmFunctionChecks
from workbench.verification.gemm_quantized_function import QuantizedGemmFunctionChecks
from workbench.verification.grouped_gemm_function import GroupedGemmFunctionChecks
from workbench.verification.quantize_function import QuantizeFunctionChecks
from workbench.verification.quantize_packed_function import QuantizePackedFunctionChecks
from workbench.verification.transpose_function import TransposeFunctionChecks
from workbench.verification.weight_only_function import WeightOnlyFunctionChecks

__all__ = ["CHECKS"]

CHECKS: dict[str, FunctionChecks] = {
    "gemm": GemmFunctionChecks(),
    "quantize": QuantizeFunctionChecks(),
    "linear_weight_only": WeightOnlyFunctionChecks(),
    "gemm_packed": PackedGemmFunctionChecks(),
    "quantize_packed": QuantizePackedFunctionChecks(),
    "gemm_quantized": QuantizedGemmFunctionChecks(),
    "grouped_gemm": GroupedGemmFunctionChecks(),
    "batched_gemm": BatchedGemmFunctionChecks(),
    "gemm_outliers": OutlierGemmFunctionChecks(),
    "dequantize": DequantizeFunctionChecks(),
    "dataflow": DataflowFunctionChecks(),
    "transpose": TransposeFunctionChecks(),
}
