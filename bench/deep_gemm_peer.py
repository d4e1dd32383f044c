"""DeepGEMM as a peer, where it is installed: e4m3fn under 1x128 and 128x128 scales, bf16 out.

Both generations of its names are known: those of its first version, and those from July 2025 on.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["aligned_scales", "dense_product", "function", "version"]

#: What its tensor maps load: scales of A have their rows contiguous, padded to 16 bytes.
SCALE_ROWS = 4


def function(*names: str) -> Callable[..., None]:
    """The first of these functions that the installed library has.

    Raises:
        ImportError: the library is missing, or has none of them.
    """
    import deep_gemm

    for name in names:
        if hasattr(deep_gemm, name):
            found: Callable[..., None] = getattr(deep_gemm, name)
            return found
    raise ImportError(f"deep_gemm has none of {', '.join(names)}")


def version() -> str:
    """What the library calls itself, and "absent" where it is not installed."""
    try:
        import deep_gemm
    except ImportError:
        return "absent"
    return str(getattr(deep_gemm, "__version__", "unnamed"))


def aligned_scales(scales: torch.Tensor) -> torch.Tensor:
    """A copy of A's scales (..., M, K / 128) as the library wants them.

    It would bring any other layout into this one on every call, in the time that is measured.
    """
    *lead, rows, cols = scales.shape
    padded = -(-rows // SCALE_ROWS) * SCALE_ROWS
    laid = scales.new_zeros(*lead, cols, padded).mT[..., :rows, :]
    return laid.copy_(scales)


def dense_product(
    a: torch.Tensor, a_scale: torch.Tensor, b: torch.Tensor, b_scale: torch.Tensor, c: torch.Tensor
) -> Callable[[], Any]:
    """One launch of ``c = a · b^T`` on these tensors.

    Args:
        a: (M, K) e4m3fn.
        a_scale: (M, K / 128) fp32, as :func:`aligned_scales` lays it out.
        b: (N, K) e4m3fn.
        b_scale: (N / 128, K / 128) fp32, row-major.
        c: (M, N) bf16.
    Raises:
        ImportError: the library is missing.
    """
    run = function("fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt")
    return lambda: run((a, a_scale), (b, b_scale), c)
