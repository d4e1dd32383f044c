"""``gemm_quantized``: products whose output is codes and block scales, as Jetfire's are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import Rounding
from tiles.kernels import Limits
from tiles.kernels.hopper_block_rules import block_scales
from tiles.problems import Gemm, Problem, Quantize
from workbench.emission.function import (
    ALIGNED_EXTENT,
    ANY_HOPPER,
    CUPY_FILES,
    Free,
    Function,
    default_problems,
    operand_layout,
)
from workbench.emission.hopper_function import hopper_remark

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["QuantizedGemmFunction"]

FAMILY = "hopper_block_gemm"


class QuantizedGemmFunction(Function):
    """``gemm_quantized`` on torch tensors."""

    name: ClassVar[str] = "gemm_quantized"
    families: ClassVar[tuple[str, ...]] = (FAMILY,)

    def serves(self, family: str, problem: Problem) -> bool:
        coded = isinstance(problem, Gemm) and problem.output.scaling is not None
        return family == FAMILY and coded

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        own = ("_gemm_quantized.py", "_quantize_packed.py", "_hopper_gemm.py")
        return (*own, "gemm_cuda.py", *CUPY_FILES)

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        assert isinstance(problem, Gemm)
        second = Quantize(rows=problem.m, cols=problem.n, target=problem.output, source="fp32")
        return (
            ("triton_gemm", replace(problem, out="fp32")),
            ("triton_quantize_tiles", second),
        )

    def needs_cupy(self, family: str) -> bool:
        return True

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Gemm)
        recipe, output = problem.recipe, problem.output
        assert output.scaling is not None
        return operand_layout(problem) | {
            "scales": block_scales(recipe.activation, recipe.weight),
            "out_element": output.element.name,
            "out_block": output.scaling.rows,
            "stochastic": output.rounding is Rounding.STOCHASTIC,
        }

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        return default_problems(problem, ALIGNED_EXTENT)

    def any_gpu(self, family: str) -> Limits:
        return ANY_HOPPER

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        recipe, out = entries[0].formats
        seed = ", seed=1" if out.endswith("+sr") else ""
        return [
            f"from {name} import gemm_quantized",
            "",
            "# codes and scales of A (M, K) · B (N, K)^T, ready for the next product",
            f'codes, scales = gemm_quantized(a, b, a_scale, b_scale, recipe="{recipe}", '
            f'format="{out}"{seed})',
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return hopper_remark(
            "gemm_quantized", (FAMILY,), ("triton_gemm", "triton_quantize_tiles"), entries
        )
