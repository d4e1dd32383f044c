"""``linear_weight_only`` and ``pack_weight``: 16-bit activations by packed low-bit weights."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.problems import Gemm, Problem
from workbench.emission.function import CUPY_FILES, TORCH_FILES, scale_block
from workbench.emission.hopper_function import HopperFunction

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["WeightOnlyFunction"]


TRITON = "triton_weight_only"
#: In CUDA C++: of few rows, and of many.
HOPPER = ("hopper_weight_only", "hopper_weight_prefill")


class WeightOnlyFunction(HopperFunction):
    """``linear_weight_only`` on torch tensors."""

    name: ClassVar[str] = "linear_weight_only"
    families: ClassVar[tuple[str, ...]] = (TRITON, *HOPPER)
    triton: ClassVar[str] = TRITON
    hopper: ClassVar[tuple[str, ...]] = HOPPER

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        own = ("_weight_only.py", "_packed_weight.py", "_workspace.py")
        if not set(HOPPER) & set(families):
            return (*own, *TORCH_FILES)
        return (*own, "_hopper_weight_only.py", "_hopper_gemm.py", *CUPY_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Gemm)
        weight = problem.recipe.weight
        assert weight.scaling is not None  # the family refuses others
        return {
            "activation": problem.recipe.activation.element.name,
            "element": weight.element.name,
            "bits": weight.element.bits,
            "block": scale_block(weight),
            "stored": weight.scaling.stored.name,
        }

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, Gemm)
        recipe = entry.problem.recipe
        return [
            f"from {name} import linear_weight_only, pack_weight",
            "",
            f"# codes and scales of W (N, K) {recipe.weight}; once. A module's state_dict holds it",
            f'weight = pack_weight(codes, scales, recipe="{recipe}")',
            f"y = linear_weight_only(x, weight)  # x (..., K) {recipe.activation}",
        ]
