"""``dataflow``: operators between products whose tensors stay quantised, in CUDA C++."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.formats import Rounding
from tiles.kernels import Limits
from tiles.problems import DATAFLOW_OPS, Dataflow, Problem
from workbench.emission.function import ANY_GPU, CUPY_FILES, Free, Function, scale_block

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["DataflowFunction"]

#: Rows that defaults are asked for; they do not depend on them.
DEFAULT_ROWS = 4096
#: Columns that defaults are asked for: a wider row takes more CTAs, or more shared memory.
DEFAULT_COLS = tuple(2**k for k in range(6, 16))


class DataflowFunction(Function):
    """``dataflow`` on torch tensors."""

    name: ClassVar[str] = "dataflow"
    families: ClassVar[tuple[str, ...]] = ("cuda_dataflow_blocks", "cuda_dataflow_rows")

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_dataflow.py", "_dataflow_operands.py", *CUPY_FILES)

    def needs_cupy(self, family: str) -> bool:
        return True

    def key(self, problem: Problem) -> tuple[Free, tuple[int, ...]]:
        """Rows, and columns rounded up to a power of two, which defaults go by; columns."""
        rows, cols = problem.shape
        return (rows, 1 << (cols - 1).bit_length()), (cols,)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Dataflow)
        target = problem.target
        return {
            "op": problem.op,
            "element": target.element.name,
            "block": scale_block(target),
            "stochastic": target.rounding is Rounding.STOCHASTIC,
        }

    def defaults(self, family: str, problem: Problem) -> Mapping[Free, Problem]:
        return {(DEFAULT_ROWS, cols): problem.resized(DEFAULT_ROWS, cols) for cols in DEFAULT_COLS}

    def any_gpu(self, family: str) -> Limits:
        # e4m3fn needs conversion instructions; int8 runs from capability 8.0 on all the same.
        return replace(ANY_GPU, capability=89)

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        op, target = entries[0].formats
        second = ", other=dy, other_scales=dy_scales" if op.endswith("-bwd") else ""
        if op == "residual":
            second = ", other=y, other_scales=y_scales"
        statistics = ", mean=mean, variance=variance" if op.endswith(("-apply", "norm-bwd")) else ""
        kind = op.partition("-")[0]
        columns = ", gamma=gamma" if kind in ("layernorm", "rmsnorm") else ""
        columns += ", beta=beta" if kind == "layernorm" and not op.endswith("-bwd") else ""
        seed = ", seed=1" if target.endswith("+sr") else ""
        drop = ", probability=0.1, mask_seed=2" if op == "dropout" else ""
        return [
            f"from {name} import dataflow",
            "",
            f"# codes and scales of {target} in and out; the result has codes, scales and vectors",
            f'y = dataflow("{op}", x, x_scales{second}{statistics}{columns}, format="{target}"'
            f"{seed}{drop})",
        ]

    def remarks(self, entries: "Sequence[TunedEntry]") -> list[str]:
        if not entries:
            return []
        tuned = {entry.problem.formats[0] for entry in entries}
        ops = ", ".join(f"`{op}`" for op in DATAFLOW_OPS if op in tuned)
        return [
            f"`dataflow` launches {ops} through CuPy on torch's own memory and stream. Nothing",
            "stands in for them: they need CuPy and an NVIDIA GPU of capability 8.0 (e4m3fn 8.9).",
            "Rows too long for a GPU's shared memory are refused.",
            "",
        ]
