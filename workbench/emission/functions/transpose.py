"""``transpose``: the codes of a matrix, turned for a product that reads them the other way.

In Triton, and in CUDA C++ where that was faster and CuPy is there.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.problems import Problem, Transpose
from workbench.emission.function import CUPY_FILES, TORCH_FILES, Function, cupy_remark

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["TransposeFunction"]

TRITON, CUDA = "triton_transpose", "cuda_transpose"


class TransposeFunction(Function):
    """``transpose`` on torch tensors."""

    name: ClassVar[str] = "transpose"
    families: ClassVar[tuple[str, ...]] = (TRITON, CUDA)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_transpose.py", *(CUPY_FILES if CUDA in families else TORCH_FILES))

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        return ((TRITON, problem),) if family == CUDA else ()

    def needs_cupy(self, family: str) -> bool:
        return family == CUDA

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Transpose)
        return {"element": problem.element}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        return [
            f"from {name} import transpose",
            "",
            f"turned = transpose(codes)  # (R, C) {entries[0].formats[0]} to (C, R)",
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return cupy_remark("transpose", (CUDA,), (TRITON,), entries)
