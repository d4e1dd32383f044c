"""Functions behind which CUDA C++ for Hopper competes with a Triton family, which stands in."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from tiles.kernels import Limits
from tiles.problems import Problem
from workbench.emission.function import (
    ALIGNED_EXTENT,
    ANY_GPU,
    ANY_HOPPER,
    DEFAULT_EXTENT,
    Free,
    Function,
    cupy_remark,
    default_problems,
)

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["HopperFunction", "hopper_remark"]


def hopper_remark(
    function: str,
    hopper: Sequence[str],
    stand_ins: Sequence[str],
    entries: "Sequence[TunedEntry]",
) -> list[str]:
    """A paragraph about the kernels for capability 9.0 behind a function; or nothing.

    Args:
        function: its name.
        hopper: families that need such a GPU.
        stand_ins: those that run elsewhere.
        entries: of the function.
    """
    where = (
        "Where rows do not start at multiples of 16 bytes, CuPy is missing or the GPU's\n"
        "capability is not 9.0"
    )
    return cupy_remark(function, hopper, stand_ins, entries, where)


class HopperFunction(Function):
    """A function of one Triton family and of some that launch CUDA C++ on Hopper, through CuPy."""

    triton: ClassVar[str]
    hopper: ClassVar[tuple[str, ...]]

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        return ((self.triton, problem),) if family in self.hopper else ()

    def needs_cupy(self, family: str) -> bool:
        return family in self.hopper

    def default_extent(self, family: str) -> int:
        """Fixed extents that the family's defaults are asked for."""
        return ALIGNED_EXTENT if family in self.hopper else DEFAULT_EXTENT

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        return default_problems(problem, self.default_extent(family))

    def any_gpu(self, family: str) -> Limits:
        return ANY_HOPPER if family in self.hopper else ANY_GPU

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return hopper_remark(self.name, self.hopper, (self.triton,), entries)
