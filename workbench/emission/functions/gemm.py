"""``gemm``: scaled products in Triton, and those in CUDA C++ that are faster on Hopper."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import IntElement
from tiles.kernels import Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.kernels.hopper_block_rules import block_scales
from tiles.kernels.hopper_gemm import scale_mode
from tiles.problems import Gemm, Problem
from workbench.emission.function import (
    ANY_GPU,
    CUPY_FILES,
    TORCH_FILES,
    operand_layout,
    torch_dtype,
)
from workbench.emission.hopper_function import HopperFunction

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["GemmFunction"]

TRITON = "triton_gemm"
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")


def _scaled(entry: "TunedEntry") -> bool:
    return isinstance(entry.problem, Gemm) and entry.problem.recipe.quantized


class GemmFunction(HopperFunction):
    """``gemm`` on torch tensors, ``gemm_cuda.gemm`` on CuPy arrays."""

    name: ClassVar[str] = "gemm"
    families: ClassVar[tuple[str, ...]] = (TRITON, *HOPPER)
    triton: ClassVar[str] = TRITON
    hopper: ClassVar[tuple[str, ...]] = HOPPER

    def serves(self, family: str, problem: Problem) -> bool:
        if family in ("hopper_block_gemm", "hopper_skinny_gemm"):
            # Where Triton's product has no such operands or output, other functions have it.
            return kernel(TRITON).refusal(problem, ANY_GPU) is None
        return family in self.families

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        own = ("_gemm.py", "_workspace.py")
        if not set(families) & set(HOPPER):
            return (*own, *TORCH_FILES)
        return (*own, "_hopper_gemm.py", "gemm_cuda.py", *CUPY_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Gemm)
        recipe = problem.recipe
        exact = isinstance(recipe.activation.element, IntElement)
        layout = operand_layout(problem)
        # By which `patch` finds how activations and weights are quantised.
        layout |= {"a_format": str(recipe.activation), "b_format": str(recipe.weight)}
        # Beyond it the int32 accumulator of a product without promotion could overflow.
        layout["max_k"] = MAX_INT32_K if exact and not recipe.blockwise else None
        if family in HOPPER:
            scales = block_scales if family == "hopper_block_gemm" else scale_mode
            return layout | {"scales": scales(recipe.activation, recipe.weight)}
        emulated = kernel(family).path(problem, limits) is NumericPath.EMULATED
        return layout | {"decode": None if any_gpu else emulated}

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        # A recipe with scales shows more of the call than a plain one.
        entry = max(entries, key=_scaled)
        recipe, out = entry.formats
        assert isinstance(entry.problem, Gemm)
        lines = [
            "import torch",
            f"from {name} import gemm",
            "",
            f"# a (M, K) {entry.problem.recipe.activation}, b (N, K) {entry.problem.recipe.weight}",
            "# C[M, N] = A[M, K] · B[N, K]^T, value = code x scale",
            f"c = gemm(a, b{', a_scale, b_scale' if _scaled(entry) else ''}, "
            f'recipe="{recipe}", out_dtype=torch.{torch_dtype(out)})',
        ]
        on_cupy = [entry for entry in entries if entry.study.kernel in HOPPER]
        if on_cupy:
            entry = max(on_cupy, key=_scaled)
            recipe, out = entry.formats
            scales = ", a_scale, b_scale" if _scaled(entry) else ""
            lines += [
                "",
                f"from {name} import gemm_cuda  # CuPy arrays; imports no torch",
                "",
                f'c = gemm_cuda.gemm(a, b{scales}, recipe="{recipe}", out_format="{out}")',
            ]
        return lines
