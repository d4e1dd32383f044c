"""``gemm_outliers`` and ``pack_outliers``: int8 products whose activations have outliers apart."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.kernels.gemm import MAX_INT32_K
from tiles.problems import Gemm, Problem
from tiles.recipes import OutlierBlocks, OutlierColumns
from workbench.emission.function import TORCH_FILES, Function, operand_layout, torch_dtype

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["OutlierGemmFunction"]


class OutlierGemmFunction(Function):
    """``gemm_outliers`` on torch tensors."""

    name: ClassVar[str] = "gemm_outliers"
    families: ClassVar[tuple[str, ...]] = ("triton_outlier_gemm",)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_gemm_outliers.py", "_outlier_packing.py", *TORCH_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Gemm)
        outliers = problem.recipe.outliers
        layout = operand_layout(problem)
        if isinstance(outliers, OutlierColumns):
            own = {"threshold": outliers.threshold, "kept": outliers.kept.name}
            # Beyond it the int32 accumulator of a product without promotion could overflow.
            return layout | {"outliers": "columns", "max_k": MAX_INT32_K, **own}
        assert isinstance(outliers, OutlierBlocks)  # the family refuses other recipes
        return layout | {"outliers": "blocks", "max_k": None, "share": outliers.share}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, Gemm)
        recipe, out = entry.formats
        columns = isinstance(entry.problem.recipe.outliers, OutlierColumns)
        weight = ", weight" if columns else ""
        return [
            f"from {name} import gemm_outliers, pack_outliers",
            "",
            "# x (M, K) in 16 or 32 bits; codes and scales of the weights (N, K) int8: b, b_scale",
            f'packed = pack_outliers(x{weight}, recipe="{recipe}")',
            f'c = gemm_outliers(packed, b, b_scale, recipe="{recipe}", '
            f"out_dtype=torch.{torch_dtype(out)})",
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        if not entries:
            return []
        return [
            "`pack_outliers` is plain torch, finds the outliers on every call and never waits for",
            "the GPU; no time in the table counts it. Where more columns hold outliers than it was",
            "given memory for, the product is NaN.",
            "",
        ]
