"""``grouped_gemm``: the experts of a mixture, whose rows are found on the device."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import IntElement
from tiles.kernels import Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.problems import GroupedGemm, Problem, RowOrder
from workbench.emission.function import DEFAULT_EXTENT, DEFAULT_M, Function, scale_block

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["GroupedGemmFunction"]

#: What a call hands over beside operands and scales, by order of rows.
ROUTING = {
    RowOrder.CONTIGUOUS: "offsets=offsets",
    RowOrder.PADDED: "offsets=offsets, counts=counts",
    RowOrder.MASKED: "counts=counts",
    RowOrder.GATHERED: "offsets=offsets, ids=ids, top_k={size}",
}


class GroupedGemmFunction(Function):
    """``grouped_gemm`` on torch tensors."""

    name: ClassVar[str] = "grouped_gemm"
    families: ClassVar[tuple[str, ...]] = ("triton_grouped_gemm",)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_grouped_gemm.py", "_torch_device.py")

    def formats(self, problem: Problem) -> tuple[str, ...]:
        """Recipe, order of rows, output."""
        assert isinstance(problem, GroupedGemm)
        return (problem.recipe.name, problem.layout.order.value, problem.out)

    def key(self, problem: Problem) -> tuple[int, tuple[int, ...]]:
        """Rows; experts, N, K, and of masked and gathered rows the capacity or choices."""
        assert isinstance(problem, GroupedGemm)
        layout = problem.layout
        # What padded rows are multiples of lies on the device.
        size = 1 if layout.order is RowOrder.PADDED else layout.size
        return problem.m, (problem.experts, problem.n, problem.k, size)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, GroupedGemm)
        recipe = problem.recipe
        exact = isinstance(recipe.activation.element, IntElement)
        emulated = kernel(family).path(problem, limits) is NumericPath.EMULATED
        return {
            "a_element": recipe.activation.element.name,
            "a_block": scale_block(recipe.activation),
            "b_element": recipe.weight.element.name,
            "b_block": scale_block(recipe.weight),
            # Beyond it the int32 accumulator of a product without promotion could overflow.
            "max_k": MAX_INT32_K if exact and not recipe.blockwise else None,
            "decode": None if any_gpu else emulated,
        }

    def defaults(self, family: str, problem: Problem) -> dict[int, Problem]:
        assert isinstance(problem, GroupedGemm)
        size, order = problem.layout.size, problem.layout.order
        asked: dict[int, Problem] = {}
        for m in DEFAULT_M:
            if order is RowOrder.MASKED:
                m = min(m, problem.experts * size)
            elif order is RowOrder.GATHERED:
                m = -(-m // size) * size
            asked[m] = problem.resized(problem.experts, m, DEFAULT_EXTENT, DEFAULT_EXTENT)
        return asked

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, GroupedGemm)
        recipe, layout = entry.problem.recipe, entry.problem.layout
        scales = ", a_scale, b_scale" if recipe.quantized else ""
        routing = ROUTING[layout.order].format(size=layout.size)
        return [
            f"from {name} import grouped_gemm",
            "",
            f"# b (E, N, K) {recipe.weight}; {layout.order.value} rows of a {recipe.activation}",
            f'c = grouped_gemm(a, b{scales}, recipe="{recipe}", {routing})',
        ]
