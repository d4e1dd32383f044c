"""``quantize_packed``: codes and scales of any block format, with a transposed copy if wanted."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import Rounding
from tiles.kernels import Limits
from tiles.problems import Problem, Quantize
from workbench.emission.function import (
    ALIGNED_EXTENT,
    CUPY_FILES,
    TORCH_FILES,
    Free,
    Function,
    cupy_remark,
    default_problems,
    scale_block,
)

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["QuantizePackedFunction"]

TRITON, CUDA = "triton_quantize_tiles", "cuda_quantize"
NVFP4 = "cuda_quantize_nvfp4"


class QuantizePackedFunction(Function):
    """``quantize_packed`` on torch tensors."""

    name: ClassVar[str] = "quantize_packed"
    families: ClassVar[tuple[str, ...]] = (TRITON, CUDA, NVFP4)

    def serves(self, family: str, problem: Problem) -> bool:
        """Of the family in CUDA C++ what the function of CuPy arrays does not have."""
        if family != CUDA:
            return family in self.families
        assert isinstance(problem, Quantize)
        return problem.transposed or not problem.target.plain

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return (
            "_quantize_packed.py",
            *(CUPY_FILES if {CUDA, NVFP4} & {*families} else TORCH_FILES),
        )

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        return ((TRITON, problem),) if self.needs_cupy(family) else ()

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        if family == NVFP4:
            return default_problems(problem, ALIGNED_EXTENT)  # whole blocks
        return super().defaults(family, problem)

    def needs_cupy(self, family: str) -> bool:
        return family in (CUDA, NVFP4)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Quantize)
        target = problem.target
        assert target.scaling is not None  # the problem refuses others
        return {
            "element": target.element.name,
            "bits": target.element.bits,
            "block": scale_block(target),
            "stored": target.scaling.stored.name,
            "rule": target.scaling.rule.value,
            "stochastic": target.rounding is Rounding.STOCHASTIC,
            "two_level": target.scaling.two_level,
            "transposed": problem.transposed,
            "swizzled": problem.swizzled,
        }

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, Quantize)
        options = "".join(f", {option}=True" for option in entry.formats[2:])
        if entry.problem.target.rounding is Rounding.STOCHASTIC:
            options += ", seed=1"
        return [
            f"from {name} import quantize_packed",
            "",
            f'codes, scales, *more = quantize_packed(x, "{entry.formats[0]}"{options})',
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return cupy_remark("quantize_packed", (CUDA, NVFP4), (TRITON,), entries)
