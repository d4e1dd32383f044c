"""Launches of the two GEMM families on the layers' operands."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.kernels.cuda import gemm_hopper_blocks
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.gemm_workload import launch_block, multiprocessors
from tiles.kernels.hopper_block_gemm import block_scales
from tiles.kernels.triton import gemm_scaled
from tiles.problems import Gemm
from tiles.recipes import Recipe
from workbench.nn.choices import Choice

__all__ = ["Operand", "launch_product", "product_problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A product's operand, K contiguous."""

    codes: torch.Tensor  #: (rows, K)
    scales: torch.Tensor | None
    format: TensorFormat

    @property
    def nearest(self) -> TensorFormat:
        """Its format as a product takes it, which does not ask how codes were rounded."""
        return replace(self.format, rounding=Rounding.NEAREST_EVEN)


def product_problem(a: Operand, b: Operand, out: str) -> Gemm:
    """The problem of ``a · b^T``, under a recipe of its operands' formats."""
    formats = Recipe(
        name=f"{a.nearest} by {b.nearest}",
        activation=a.nearest,
        weight=b.nearest,
        source="operands of a layer's product",
    )
    return Gemm(m=a.codes.shape[0], n=b.codes.shape[0], k=a.codes.shape[1], recipe=formats, out=out)


def launch_product(
    problem: Gemm,
    choice: Choice,
    a: Operand,
    b: Operand,
    c: torch.Tensor,
    *,
    scales: torch.Tensor | None = None,
    seed: int = 0,
    stream: Any = None,
) -> None:
    """Write ``a · b^T`` to ``c``, and with codes their ``scales``.

    Raises:
        ValueError, TypeError: as of the family's launcher.
    """
    config = choice.config.to_dict()
    if choice.family == "hopper_block_gemm":
        mode = block_scales(a.nearest, b.nearest)
        assert mode is not None  # else the family refuses
        assert a.scales is not None
        assert b.scales is not None
        gemm_hopper_blocks.launch(
            *map(cupy_view, (a.codes, b.codes, c, a.scales, b.scales)),
            None if scales is None else cupy_view(scales),
            element=a.format.element.name,
            out=problem.out,
            scales=mode,
            config=config,
            seed=seed,
            stream=stream,
        )
        return
    gemm_scaled.launch(
        a.codes,
        b.codes,
        c,
        a.scales,
        b.scales,
        a_block=launch_block(a.format),
        b_block=launch_block(b.format),
        config=config,
        num_sms=multiprocessors(str(c.device)),
    )
