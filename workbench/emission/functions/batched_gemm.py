"""``batched_gemm``: the products of attention, every matrix with scales of its own."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import IntElement
from tiles.kernels import Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.problems import BatchedGemm, Problem, SecondOperand
from workbench.emission.function import (
    DEFAULT_EXTENT,
    DEFAULT_M,
    TORCH_FILES,
    Free,
    Function,
    operand_layout,
    torch_dtype,
)

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["BatchedGemmFunction"]


class BatchedGemmFunction(Function):
    """``batched_gemm`` on torch tensors."""

    name: ClassVar[str] = "batched_gemm"
    families: ClassVar[tuple[str, ...]] = ("triton_batched_gemm",)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_batched_gemm.py", *TORCH_FILES)

    def key(self, problem: Problem) -> tuple[Free, tuple[int, ...]]:
        """Matrices, rows and the length of the sequence; the width of a head."""
        assert isinstance(problem, BatchedGemm)
        length, head = problem.n, problem.k
        if problem.second is SecondOperand.KN:
            length, head = head, length
        return (problem.batch, problem.m, length), (head,)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, BatchedGemm)
        recipe = problem.recipe
        exact = isinstance(recipe.activation.element, IntElement)
        emulated = kernel(family).path(problem, limits) is NumericPath.EMULATED
        return operand_layout(problem) | {
            "second": problem.second.value,
            # Beyond it the int32 accumulator of a product without promotion could overflow.
            "max_k": MAX_INT32_K if exact and not recipe.blockwise else None,
            "decode": None if any_gpu else emulated,
        }

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        asked = {m: problem.resized(1, m, DEFAULT_EXTENT, DEFAULT_EXTENT) for m in DEFAULT_M}
        return {(1, m, DEFAULT_EXTENT): one for m, one in asked.items()}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, BatchedGemm)
        recipe, second, out = entry.formats
        scales = ", a_scale, b_scale" if entry.problem.recipe.quantized else ""
        b = "(..., N, K)" if second == "nk" else "(..., K, N)"
        return [
            f"from {name} import batched_gemm",
            "",
            f"# a (batch, M, K) or (batch, heads, M, K), b {b}; scales for each matrix",
            f'c = batched_gemm(a, b{scales}, recipe="{recipe}", second="{second}", '
            f"out_dtype=torch.{torch_dtype(out)})",
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        if not entries:
            return []
        return [
            "`batched_gemm` takes the entry for the width of its heads whose number of matrices,",
            "rows and length are nearest in log space, added up.",
            "",
        ]
