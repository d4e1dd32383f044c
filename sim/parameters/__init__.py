"""Template parameters: the constants of each kernel family's cost function, with their priors."""

from sim.parameters.base import Parameters, fitted
from sim.parameters.gemm import (
    BATCHED,
    DECODED,
    GEMM,
    GROUPED,
    OUTLIER,
    WEIGHT_ONLY,
    BatchedParameters,
    DecodedParameters,
    GemmParameters,
    GroupedParameters,
    OutlierParameters,
    WeightOnlyParameters,
)
from sim.parameters.hopper import (
    HOPPER_BLOCK,
    HOPPER_GEMM,
    HOPPER_SKINNY,
    HopperBlockParameters,
    HopperGemmParameters,
    HopperSkinnyParameters,
)
from sim.parameters.streams import (
    DATAFLOW_ROW,
    STREAM,
    DataflowRowParameters,
    StreamParameters,
)

#: Which parameters a family has, by its name.
TEMPLATES: dict[str, type[Parameters]] = {
    "triton_gemm": GemmParameters,
    "hopper_gemm": HopperGemmParameters,
    "hopper_skinny_gemm": HopperSkinnyParameters,
    "hopper_block_gemm": HopperBlockParameters,
    "triton_weight_only": WeightOnlyParameters,
    "triton_decoded_gemm": DecodedParameters,
    "triton_outlier_gemm": OutlierParameters,
    "triton_batched_gemm": BatchedParameters,
    "triton_grouped_gemm": GroupedParameters,
    "hopper_grouped_gemm": GroupedParameters,
    "triton_quantize": StreamParameters,
    "cuda_quantize": StreamParameters,
    "triton_quantize_tiles": StreamParameters,
    "triton_dequantize": StreamParameters,
    "triton_transpose": StreamParameters,
    "cuda_dataflow_blocks": StreamParameters,
    "cuda_dataflow_rows": DataflowRowParameters,
}

__all__ = [
    "BATCHED",
    "DATAFLOW_ROW",
    "DECODED",
    "GEMM",
    "GROUPED",
    "HOPPER_BLOCK",
    "HOPPER_GEMM",
    "HOPPER_SKINNY",
    "OUTLIER",
    "STREAM",
    "TEMPLATES",
    "WEIGHT_ONLY",
    "BatchedParameters",
    "DataflowRowParameters",
    "DecodedParameters",
    "GemmParameters",
    "GroupedParameters",
    "HopperBlockParameters",
    "HopperGemmParameters",
    "HopperSkinnyParameters",
    "OutlierParameters",
    "Parameters",
    "StreamParameters",
    "WeightOnlyParameters",
    "fitted",
]
