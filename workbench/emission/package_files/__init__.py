"""Tuned low-precision kernels for PyTorch and CuPy; README.md lists what is in the package.

Functions that ``__all__`` names take torch tensors, ``gemm_cuda.gemm`` and
``quantize_cuda.quantize`` CuPy arrays; a package holds those that it was emitted with.  Importing
it imports neither torch nor cupy.
"""

import importlib
import importlib.util
from typing import Any

__version__ = "0.1.0"

#: Public function to the module that defines it; importing that module imports torch.
_HOMES = {
    "gemm": "_gemm",
    "quantize": "_quantize",
    "gemm_packed": "_gemm_packed",
    "gemm_quantized": "_gemm_quantized",
    "quantize_packed": "_quantize_packed",
    "dequantize": "_dequantize",
    "dataflow": "_dataflow",
    "DataflowResult": "_dataflow_operands",
    "transpose": "_transpose",
    "batched_gemm": "_batched_gemm",
    "gemm_outliers": "_gemm_outliers",
    "pack_outliers": "_outlier_packing",
    "OutlierActivations": "_outlier_packing",
    "grouped_gemm": "_grouped_gemm",
    "linear_weight_only": "_weight_only",
    "pack_weight": "_packed_weight",
    "PackedWeight": "_packed_weight",
    "patch": "_patch",
    "unpatch": "_patch",
    "PatchReport": "_patch_report",
}

__all__ = [name for name, home in _HOMES.items() if importlib.util.find_spec(f"{__name__}.{home}")]


def __getattr__(name: str) -> Any:
    if name in _HOMES and name not in __all__:
        raise AttributeError(f"{__name__} was emitted without {name!r}: its README.md says why")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
