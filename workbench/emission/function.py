"""What a public function brings to an emitted package.

A function stands for one or several kernel families.  It says which static files hold it, how the
tuned configurations of its families are looked up, which default serves a call that nothing was
tuned for, and what runs where a family cannot.  :mod:`workbench.emission.functions` lists them;
the checks of a function are found by its name in :mod:`workbench.verification.functions`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import TensorFormat
from tiles.kernels import Limits
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, Problem

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = [
    "ALIGNED_EXTENT",
    "ANY_GPU",
    "ANY_HOPPER",
    "CUPY_FILES",
    "DEFAULT_EXTENT",
    "DEFAULT_M",
    "TORCH_FILES",
    "Function",
    "cupy_remark",
    "default_problems",
    "operand_layout",
    "scale_block",
    "torch_dtype",
]

#: The extents of which the nearest tuned ones are taken: M, or several.
Free = int | tuple[int, ...]
#: Files of every function of torch tensors, and those of one that launches CUDA C++ on them.
TORCH_FILES = ("_operands.py", "_operator.py", "_ops.py", "_torch_device.py")
CUPY_FILES = ("_cupy_views.py", *TORCH_FILES)
#: Free extents at which the conservative default is asked for.
DEFAULT_M = (16, 64, 256, 1024, 4096)
#: Fixed extents of that question: odd, so that no answer relies on alignment (TMA, vector loads).
DEFAULT_EXTENT = 4095
#: The same for families that have a stand-in where extents are odd.
ALIGNED_EXTENT = 4096
#: What any NVIDIA GPU of capability 8.0 and up has: no descriptors, 99 KiB of shared memory a CTA
#: less a margin, no 8-bit floats (decoded at run time where the tensor cores do not take them).
ANY_GPU = Limits(
    gpu="any GPU",
    vendor="nvidia",
    capability=80,
    smem_bytes_per_cta=96 * 1024,
    registers_per_sm=65536,
    threads_per_sm=1024,
    warp_threads=32,
    native_elements=frozenset({"fp16", "bf16", "int8"}),
)
#: The same for families that need Hopper's instructions: any GPU of capability 9.0.
ANY_HOPPER = replace(
    ANY_GPU, gpu="any GPU of capability 9.0", capability=90, smem_bytes_per_cta=227 * 1024
)


def scale_block(fmt: TensorFormat) -> list[int] | None:
    """(rows, columns) under one scale, 0 for the whole extent; ``None`` without scales."""
    return None if fmt.scaling is None else [fmt.scaling.rows or 0, fmt.scaling.cols or 0]


def operand_layout(problem: Gemm | GroupedGemm | BatchedGemm) -> dict[str, Any]:
    """Elements and blocks of both operands."""
    recipe = problem.recipe
    return {
        "a_element": recipe.activation.element.name,
        "a_block": scale_block(recipe.activation),
        "b_element": recipe.weight.element.name,
        "b_block": scale_block(recipe.weight),
    }


def torch_dtype(out: str) -> str:
    """Torch's name of a plain output."""
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[out]


def default_problems(problem: Problem, extent: int = DEFAULT_EXTENT) -> dict[Free, Problem]:
    """By free extent: the problems whose default configurations stand in for untuned extents."""
    return {m: problem.resized(m, *(extent for _ in problem.shape[1:])) for m in DEFAULT_M}


def cupy_remark(
    function: str,
    families: Sequence[str],
    stand_ins: Sequence[str],
    entries: "Sequence[TunedEntry]",
    where: str = "Where CuPy is missing",
) -> list[str]:
    """A paragraph about the kernels in CUDA C++ behind a function of torch tensors; or nothing.

    Args:
        function: its name.
        families: that run through CuPy.
        stand_ins: families that run in their place.
        entries: of the function.
        where: that happens, in words.
    """
    tuned = {entry.study.kernel for entry in entries}
    names = " and ".join(f"`{name}`" for name in families if name in tuned)
    if not names:
        return []
    instead = " and then ".join(f"`{name}`" for name in stand_ins)
    return [
        f"`{function}` launches {names} through CuPy on torch's own memory and stream.",
        f"{where},",
        f"a default of {instead} runs in its place, with one warning.",
        "",
    ]


class Function(ABC):
    """A public function of a package, and the kernel families that compete behind it."""

    name: ClassVar[str]  #: as users call it, with its module where that is not the package
    families: ClassVar[tuple[str, ...]]  #: kernel families that it can launch

    def serves(self, family: str, problem: Problem) -> bool:
        """Whether a study of the family and problem belongs to this function."""
        return family in self.families

    @abstractmethod
    def files(self, families: Collection[str]) -> tuple[str, ...]:
        """Static files of the module that ship for some of its families.

        Relative to ``package_files``; ``__init__.py``, ``_lookup.py`` and the folders of the
        templates need not be named.
        """

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        """What runs the calls that a family cannot: other families, each with its problem.

        Their templates and default configurations ship as well.
        """
        return ()

    def needs_cupy(self, family: str) -> bool:
        """Whether torch functions of the package are slower without CuPy, or do not run at all."""
        return False

    def formats(self, problem: Problem) -> tuple[str, ...]:
        """What a configuration file is for, beside the extents."""
        return problem.formats

    def key(self, problem: Problem) -> tuple[Free, tuple[int, ...]]:
        """The free extents, of which the nearest tuned ones are taken, and the fixed ones."""
        return problem.shape[0], problem.shape[1:]

    @abstractmethod
    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        """What the function has to know of the operands: JSON-ready, the same for all extents.

        Args:
            family: one of :attr:`families`.
            problem: one that the file serves.
            limits: of the GPU that was tuned for.
            any_gpu: the file is for GPUs that nothing was tuned on.
        """

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        """By free extents: problems whose default configurations serve what was never tuned."""
        return default_problems(problem)

    def any_gpu(self, family: str) -> Limits:
        """What a default for GPUs that nothing was tuned on may count on."""
        return ANY_GPU

    @abstractmethod
    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        """A few lines of Python that call the function.

        Args:
            name: of the package.
            entries: those of this function, at least one.
        """

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        """A paragraph of the package's README, ending with an empty line; or nothing."""
        return []
