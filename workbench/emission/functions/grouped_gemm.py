"""``grouped_gemm``: the experts of a mixture, whose rows are found on the device."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import IntElement
from tiles.kernels import Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.kernels.hopper_gemm import scale_mode
from tiles.problems import GroupedGemm, Problem, RowOrder
from workbench.emission.function import CUPY_FILES, DEFAULT_M, TORCH_FILES, Free, operand_layout
from workbench.emission.hopper_function import HopperFunction

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["GroupedGemmFunction"]

TRITON, HOPPER = "triton_grouped_gemm", "hopper_grouped_gemm"

#: What a call hands over beside operands and scales, by order of rows.
ROUTING = {
    RowOrder.CONTIGUOUS: "offsets=offsets",
    RowOrder.PADDED: "offsets=offsets, counts=counts",
    RowOrder.MASKED: "counts=counts",
    RowOrder.GATHERED: "offsets=offsets, ids=ids, top_k={size}",
}


class GroupedGemmFunction(HopperFunction):
    """``grouped_gemm`` on torch tensors."""

    name: ClassVar[str] = "grouped_gemm"
    families: ClassVar[tuple[str, ...]] = (TRITON, HOPPER)
    triton: ClassVar[str] = TRITON
    hopper: ClassVar[tuple[str, ...]] = (HOPPER,)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        if HOPPER not in families:
            return ("_grouped_gemm.py", *TORCH_FILES)
        return ("_grouped_gemm.py", "_hopper_gemm.py", *CUPY_FILES)

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
        layout = operand_layout(problem)
        # Beyond it the int32 accumulator of a product without promotion could overflow.
        layout["max_k"] = MAX_INT32_K if exact and not recipe.blockwise else None
        if family == HOPPER:
            return layout | {"scales": scale_mode(recipe.activation, recipe.weight)}
        emulated = kernel(family).path(problem, limits) is NumericPath.EMULATED
        return layout | {"decode": None if any_gpu else emulated}

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        assert isinstance(problem, GroupedGemm)
        size, order = problem.layout.size, problem.layout.order
        extent = self.default_extent(family)
        asked: dict[Free, Problem] = {}
        for m in DEFAULT_M:
            if order is RowOrder.MASKED:
                m = min(m, problem.experts * size)
            elif order is RowOrder.GATHERED:
                m = -(-m // size) * size
            asked[m] = problem.resized(problem.experts, m, extent, extent)
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
