"""``dequantize``: codes and block scales of any format back to 16 or 32 bits."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tiles.kernels import Limits
from tiles.problems import Dequantize, Problem
from workbench.emission.function import TORCH_FILES, Function, scale_block, torch_dtype

if TYPE_CHECKING:
    from workbench.emission.winners import TunedEntry

__all__ = ["DequantizeFunction"]


class DequantizeFunction(Function):
    """``dequantize`` on torch tensors."""

    name: ClassVar[str] = "dequantize"
    families: ClassVar[tuple[str, ...]] = ("triton_dequantize",)

    def files(self, families: Collection[str]) -> tuple[str, ...]:
        return ("_dequantize.py", *TORCH_FILES)

    def layout(
        self, family: str, problem: Problem, limits: Limits, *, any_gpu: bool
    ) -> dict[str, Any]:
        assert isinstance(problem, Dequantize)
        source = problem.source
        assert source.scaling is not None  # the problem refuses others
        return {
            "element": source.element.name,
            "bits": source.element.bits,
            "block": scale_block(source),
            "stored": source.scaling.stored.name,
            "two_level": source.scaling.two_level,
        }

    def example(self, name: str, entries: "Sequence[TunedEntry]") -> list[str]:
        entry = entries[0]
        assert isinstance(entry.problem, Dequantize)
        source, out = entry.formats
        scaling = entry.problem.source.scaling
        outer = ", tensor_scale=outer" if scaling is not None and scaling.two_level else ""
        return [
            f"from {name} import dequantize",
            "",
            f'x = dequantize(codes, scales, "{source}"{outer}, out_dtype=torch.{torch_dtype(out)})',
        ]
