"""What a launch of the decoded product runs."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Pass"]

#: Grid, positional and keyword arguments of ``decode_operand``.
Pass = tuple[int, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Decoding passes, then a product."""

    passes: tuple[Pass, ...] = ()
    kernel: str  #: staged (``gemm_scaled``), native (``gemm_block_scaled``) or loop
    grid: int = 0  #: of the kernels but ``gemm_scaled``
    positional: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
