"""``gemm_packed``: products of formats that few tensor cores multiply: MX, NVFP4, posits, E3M4."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import TensorFormat
from tiles.kernels import Limits
from tiles.kernels.decoded_formats import template_element
from tiles.kernels.hopper_block_rules import block_scales
from tiles.kernels.hopper_skinny import skinny_mode
from tiles.problems import Gemm, Problem
from workbench.emission.function import CUPY_FILES, TORCH_FILES, operand_layout, scale_block
from workbench.emission.hopper_function import HopperFunction

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["PackedGemmFunction", "side_layout"]

TRITON, SKINNY = "triton_decoded_gemm", "hopper_skinny_gemm"
ALIGNED = "hopper_aligned_gemm"
HOPPER = ("hopper_block_gemm", SKINNY, ALIGNED)


def side_layout(fmt: TensorFormat) -> dict[str, Any]:
    """An operand's element and scales, as the decoding kernel is told of them."""
    element, scaling = template_element(fmt.element), fmt.scaling
    assert element is not None  # the family refuses others
    return {
        **asdict(element),
        "element": fmt.element.name,
        "block": scale_block(fmt),
        "stored": None if scaling is None else scaling.stored.name,
        "two_level": scaling is not None and scaling.two_level,
    }


def _powers_of_two(problem: Problem) -> bool:
    """Whether scales are E8M0: a product of MX operands into plain elements."""
    if not isinstance(problem, Gemm) or problem.output.scaling is not None:
        return False
    scaling = problem.recipe.activation.scaling
    return scaling is not None and scaling.stored.name == "e8m0fnu"


class PackedGemmFunction(HopperFunction):
    """``gemm_packed`` on torch tensors."""

    name: ClassVar[str] = "gemm_packed"
    families: ClassVar[tuple[str, ...]] = (TRITON, *HOPPER)
    triton: ClassVar[str] = TRITON
    hopper: ClassVar[tuple[str, ...]] = HOPPER

    def serves(self, family: str, problem: Problem) -> bool:
        return family == TRITON or (family in HOPPER and _powers_of_two(problem))

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        own = ("_gemm_packed.py", "_packed_operand.py")
        if not set(families) & set(HOPPER):
            return (*own, *TORCH_FILES)
        return (*own, "_hopper_gemm.py", "gemm_cuda.py", *CUPY_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Gemm)
        recipe = problem.recipe
        if family in HOPPER:
            scales = skinny_mode if family in (SKINNY, ALIGNED) else block_scales
            named = scales(recipe.activation, recipe.weight)
            return operand_layout(problem) | {"scales": named}
        return {"a": side_layout(recipe.activation), "b": side_layout(recipe.weight)}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, Gemm)
        recipe = entry.problem.recipe
        scales = ", a_scale" if recipe.activation.scaling is not None else ", None"
        scales += ", b_scale" if recipe.weight.scaling is not None else ""
        return [
            f"from {name} import gemm_packed",
            "",
            f"# codes of A (M, K) {recipe.activation} and B (N, K) {recipe.weight}, packed",
            f'c = gemm_packed(a, b{scales}, recipe="{recipe}")',
        ]
