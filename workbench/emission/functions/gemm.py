"""``gemm``: scaled products in Triton, and those in CUDA C++ that are faster on Hopper."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import IntElement
from tiles.kernels import Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.kernels.hopper_block_rules import block_scales
from tiles.kernels.hopper_gemm import scale_mode
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, Problem
from workbench.emission.function import (
    ANY_GPU,
    ANY_HOPPER,
    CUPY_FILES,
    DEFAULT_EXTENT,
    TORCH_FILES,
    Free,
    Function,
    cupy_remark,
    default_problems,
    scale_block,
)

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = [
    "ALIGNED_EXTENT",
    "HOPPER",
    "GemmFunction",
    "hopper_remark",
    "operand_layout",
    "torch_dtype",
]

TRITON = "triton_gemm"
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
#: Fixed extents that the defaults of a family with a stand-in are asked for.
ALIGNED_EXTENT = 4096


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


def _scaled(entry: "TunedEntry") -> bool:
    return isinstance(entry.problem, Gemm) and entry.problem.recipe.quantized


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


class GemmFunction(Function):
    """``gemm`` on torch tensors, ``gemm_cuda.gemm`` on CuPy arrays."""

    name: ClassVar[str] = "gemm"
    families: ClassVar[tuple[str, ...]] = (TRITON, *HOPPER)

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

    def stand_ins(self, family: str, problem: Problem) -> tuple[tuple[str, Problem], ...]:
        return ((TRITON, problem),) if family in HOPPER else ()

    def needs_cupy(self, family: str) -> bool:
        return family in HOPPER

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

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        return default_problems(problem, ALIGNED_EXTENT if family in HOPPER else DEFAULT_EXTENT)

    def any_gpu(self, family: str) -> Limits:
        return ANY_HOPPER if family in HOPPER else ANY_GPU

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

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        return hopper_remark("gemm", HOPPER, (TRITON,), entries)
