"""``quantize``: codes and fp32 block scales.

In Triton, and in CUDA C++ where that was faster and CuPy is there.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.problems import Problem, Quantize
from workbench.emission.function import CUPY_FILES, TORCH_FILES, Function, cupy_remark, scale_block

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["QuantizeFunction"]

TRITON, CUDA = "triton_quantize", "cuda_quantize"


class QuantizeFunction(Function):
    """``quantize`` on torch tensors, ``quantize_cuda.quantize`` on CuPy arrays."""

    name: ClassVar[str] = "quantize"
    families: ClassVar[tuple[str, ...]] = (TRITON, CUDA)

    def serves(self, family: str, problem: Problem) -> bool:
        """It takes no seed and returns no copy: those are quantize_packed's."""
        if family != CUDA:
            return family in self.families
        assert isinstance(problem, Quantize)
        return problem.target.plain and not problem.transposed

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        if CUDA not in families:
            return ("_quantize.py", *TORCH_FILES)
        return ("_quantize.py", "quantize_cuda.py", *CUPY_FILES)

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        return ((TRITON, problem),) if family == CUDA else ()

    def needs_cupy(self, family: str) -> bool:
        return family == CUDA

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Quantize)
        return {"element": problem.target.element.name, "block": scale_block(problem.target)}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        lines = [
            f"from {name} import quantize",
            "",
            f'codes, scales = quantize(x, "{entries[0].formats[0]}")',
        ]
        on_cupy = [entry for entry in entries if entry.study.kernel == CUDA]
        if on_cupy:
            lines += [
                "",
                f"from {name} import quantize_cuda  # CuPy arrays; imports no torch",
                "",
                f'codes, scales = quantize_cuda.quantize(x, "{on_cupy[0].formats[0]}")',
            ]
        return lines

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return cupy_remark("quantize", (CUDA,), (TRITON,), entries)
