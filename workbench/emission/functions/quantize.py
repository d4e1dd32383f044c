"""``quantize``: codes and fp32 block scales, in Triton and in CUDA C++."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.problems import Problem, Quantize
from workbench.emission.function import TORCH_FILES, Function, scale_block

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["CudaQuantizeFunction", "QuantizeFunction"]


class QuantizeFunction(Function):
    """``quantize`` on torch tensors."""

    name: ClassVar[str] = "quantize"
    families: ClassVar[tuple[str, ...]] = ("triton_quantize",)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_quantize.py", *TORCH_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Quantize)
        return {"element": problem.target.element.name, "block": scale_block(problem.target)}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        return [
            f"from {name} import quantize",
            "",
            f'codes, scales = quantize(x, "{entries[0].formats[0]}")',
        ]


class CudaQuantizeFunction(QuantizeFunction):
    """``quantize_cuda.quantize`` on CuPy arrays."""

    name: ClassVar[str] = "quantize_cuda.quantize"
    families: ClassVar[tuple[str, ...]] = ("cuda_quantize",)

    def serves(self, family: str, problem: Problem) -> bool:
        # It takes no seed and returns no copy: those are quantize_packed's.
        return (
            super().serves(family, problem)
            and isinstance(problem, Quantize)
            and problem.target.plain
            and not problem.transposed
        )

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("quantize_cuda.py",)

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        return [
            f"from {name} import quantize_cuda  # CuPy arrays; imports no torch",
            "",
            f'codes, scales = quantize_cuda.quantize(x, "{entries[0].formats[0]}")',
        ]
