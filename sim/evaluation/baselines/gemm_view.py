"""One view of the families' configurations of a product, as published models take them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_aligned_gemm import HopperAlignedConfig
from tiles.kernels.hopper_gemm import HopperGemmConfig
from tiles.kernels.hopper_rules import STAGE_BYTES
from tiles.kernels.hopper_skinny import HopperSkinnyConfig
from tiles.kernels.hopper_weight_only import HopperWeightOnlyConfig
from tiles.kernels.hopper_weight_prefill import HopperWeightPrefillConfig
from tiles.problems import Gemm, Problem

__all__ = ["GemmView", "gemm_view"]

I64 = NDArray[np.int64]

#: Where a family has no such field: consumer warps of the CUDA C++ kernels, tiles in a raster
#: group, CTAs that share K.
_WARPS, _GROUP = 8, 8
#: Whose clusters share K; whose share the larger of their CTAs' tiles by multicast.
_SPLITTING = (HopperSkinnyConfig, HopperWeightOnlyConfig)
_SHARING_LARGER = (HopperGemmConfig, HopperAlignedConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmView:
    """A product and the tiles of a table's rows, (rows,) each."""

    m: int
    n: int
    k: int
    a_bytes: float  #: of an element of A as it is stored, scales left out
    b_bytes: float
    c_bytes: float
    rate: float  #: operations a clock and multiprocessor, of the elements as they are multiplied
    block_m: I64
    block_n: I64
    block_k: I64
    group_m: I64
    warps: I64
    stages: I64
    split_k: I64
    cluster_m: I64  #: CTAs along M that get B by multicast
    cluster_n: I64  #: CTAs along N that get A

    @property
    def tiles_m(self) -> I64:
        """CTA tiles along M."""
        return -(-self.m // self.block_m)

    @property
    def tiles_n(self) -> I64:
        """CTA tiles along N."""
        return -(-self.n // self.block_n)

    @property
    def ctas(self) -> I64:
        """CTAs in all."""
        return self.tiles_m * self.tiles_n * self.split_k


def gemm_view(problem: Problem, table: ConfigTable, gpu: Gpu) -> GemmView | None:
    """The view of a table; None for what is no plain product or has no such tile."""
    if not isinstance(problem, Gemm) or not {"block_m", "block_n"} <= table.columns.keys():
        return None
    activation, weight = problem.recipe.activation.element, problem.recipe.weight.element
    rates = gpu.tensor_flop_per_clk
    # What the tensor cores lack is multiplied as 16-bit floats, and so is what meets 16-bit ones.
    same = activation.bits == weight.bits
    rate = rates.get(activation.name, rates["fp16"]) if same else rates["fp16"]
    rows = len(table)

    def column(names: tuple[str, ...], otherwise: int) -> I64:
        for name in names:
            if name in table.columns:
                return table[name].astype(np.int64)
        return np.full(rows, otherwise)

    block_m, block_n = column(("block_m",), 0), column(("block_n",), 0)
    # CTAs of a cluster share K or a tile: the larger one, or always that of one side.
    cluster = column(("cluster",), 1)
    splits = table.config_type in _SPLITTING
    shares_a = np.full(rows, table.config_type is HopperWeightPrefillConfig)
    if table.config_type in _SHARING_LARGER:
        shares_a = block_m > block_n
    return GemmView(
        m=problem.m,
        n=problem.n,
        k=problem.k,
        a_bytes=activation.bits / 8,
        b_bytes=weight.bits / 8,
        c_bytes=problem.output.element.bits / 8,
        rate=rate,
        block_m=block_m,
        block_n=block_n,
        block_k=column(("block_k",), STAGE_BYTES * 8 // activation.bits),
        group_m=column(("group_m",), _GROUP),
        warps=column(("num_warps",), _WARPS),
        stages=column(("num_stages", "stages"), 3),
        split_k=cluster if splits else column(("split_k",), 1),
        cluster_m=np.where(shares_a | splits, 1, cluster),
        cluster_n=np.where(shares_a & (not splits), cluster, 1),
    )
