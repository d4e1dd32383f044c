"""Pricing: every configuration of a table, on a GPU that need not be here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from sim.compiled import Compiled
from sim.cost import Cost
from sim.dataflow_model import dataflow_cost
from sim.decoded_model import decoded_cost
from sim.gemm_split_model import scaled_gemm_cost
from sim.gpu import Gpu
from sim.hopper_aligned_model import hopper_aligned_cost
from sim.hopper_block_model import hopper_block_cost
from sim.hopper_gemm_model import hopper_gemm_cost
from sim.hopper_skinny_model import hopper_skinny_cost
from sim.hopper_weight_only_model import hopper_weight_only_cost
from sim.hopper_weight_prefill_model import hopper_weight_prefill_cost
from sim.interval import interval_us
from sim.many_products import batched_cost, grouped_cost, hopper_grouped_cost
from sim.memory_bound import quantize_cost
from sim.outlier_model import outlier_cost
from sim.parameters import (
    BATCHED,
    DATAFLOW_ROW,
    DECODED,
    GEMM,
    GROUPED,
    HOPPER_BLOCK,
    HOPPER_GEMM,
    HOPPER_SKINNY,
    HOPPER_WEIGHT_ONLY,
    HOPPER_WEIGHT_PREFILL,
    OUTLIER,
    STREAM,
    TURNS,
    WEIGHT_ONLY,
    Parameters,
)
from sim.prediction import PricedTable
from sim.tile_stream import tile_stream_cost
from sim.two_walks_model import two_walks_cost
from sim.weight_only_model import weight_only_cost
from tiles.kernels import ConfigTable, Kernel, TileConfig
from tiles.kernels.batched_gemm import BatchedGemmConfig
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.cuda_quantize import CudaQuantizeConfig
from tiles.kernels.cuda_quantize_nvfp4 import CudaQuantizeNvfp4Config
from tiles.kernels.cuda_transpose import CudaTransposeConfig
from tiles.kernels.dataflow_blocks import DataflowBlocksConfig
from tiles.kernels.dataflow_rows import DataflowRowsConfig
from tiles.kernels.decoded_gemm import DecodedGemmConfig
from tiles.kernels.dequantize import TritonDequantizeConfig
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.grouped_gemm import GroupedGemmConfig
from tiles.kernels.hopper_aligned_gemm import HopperAlignedConfig
from tiles.kernels.hopper_block_gemm import HopperBlockGemmConfig
from tiles.kernels.hopper_gemm import HopperGemmConfig
from tiles.kernels.hopper_skinny import HopperSkinnyConfig
from tiles.kernels.hopper_weight_only import HopperWeightOnlyConfig
from tiles.kernels.hopper_weight_prefill import HopperWeightPrefillConfig
from tiles.kernels.outlier_gemm import OutlierGemmConfig
from tiles.kernels.quantize import TritonQuantizeConfig
from tiles.kernels.quantize_tiles import TritonQuantizeTilesConfig
from tiles.kernels.transpose import TritonTransposeConfig
from tiles.kernels.weight_only import WeightOnlyConfig
from tiles.problems import (
    BatchedGemm,
    Dataflow,
    Dequantize,
    Gemm,
    GroupedGemm,
    Problem,
    Quantize,
    Transpose,
)

__all__ = ["CostModel", "price", "template_parameters", "unpriced"]


@runtime_checkable
class CostModel(Protocol):
    """A kernel family that brings its own cost model: a :class:`Kernel` with this method."""

    def cost(
        self, problem: Problem, table: ConfigTable, gpu: Gpu, facts: Mapping[int, CompileFacts]
    ) -> Cost:
        """Times and traffic of every row of ``table``, all columns of its length.

        Args:
            table: legal configurations, at least one.
            facts: what a compiler made of some rows, by row; often empty.
        """


@dataclass(frozen=True, slots=True)
class _Model:
    """How a family's problems are priced."""

    #: Problem, path, table, GPU, compile facts, its parameters (and its product's) -> cost.
    cost: Callable[..., Cost]
    parameters: Parameters
    product: str = ""  #: the family whose parameters its plain product has


_QUANTIZE = _Model(lambda problem, _, *rest: quantize_cost(problem, *rest), TURNS)
_MODELS: dict[tuple[type[Problem], type[TileConfig]], _Model] = {
    (Gemm, GemmConfig): _Model(scaled_gemm_cost, GEMM),
    (Gemm, HopperGemmConfig): _Model(
        lambda problem, _, table, gpu, __, *rest: hopper_gemm_cost(problem, table, gpu, *rest),
        HOPPER_GEMM,
    ),
    (Gemm, WeightOnlyConfig): _Model(weight_only_cost, WEIGHT_ONLY),
    (Gemm, HopperSkinnyConfig): _Model(
        lambda problem, _, *rest: hopper_skinny_cost(problem, *rest), HOPPER_SKINNY
    ),
    (Gemm, HopperWeightOnlyConfig): _Model(
        lambda problem, _, *rest: hopper_weight_only_cost(problem, *rest), HOPPER_WEIGHT_ONLY
    ),
    (Gemm, HopperWeightPrefillConfig): _Model(
        lambda problem, _, table, gpu, __, *rest: hopper_weight_prefill_cost(
            problem, table, gpu, *rest
        ),
        HOPPER_WEIGHT_PREFILL,
    ),
    (Gemm, HopperBlockGemmConfig): _Model(
        lambda problem, _, table, gpu, __, *rest: hopper_block_cost(problem, table, gpu, *rest),
        HOPPER_BLOCK,
    ),
    (Gemm, HopperAlignedConfig): _Model(
        lambda problem, _, table, gpu, __, *rest: hopper_aligned_cost(problem, table, gpu, *rest),
        STREAM,
        "hopper_gemm",
    ),
    (Gemm, DecodedGemmConfig): _Model(decoded_cost, DECODED, "triton_gemm"),
    (Gemm, OutlierGemmConfig): _Model(outlier_cost, OUTLIER, "triton_gemm"),
    (BatchedGemm, BatchedGemmConfig): _Model(batched_cost, BATCHED, "triton_gemm"),
    (GroupedGemm, GroupedGemmConfig): _Model(grouped_cost, GROUPED, "triton_gemm"),
    (GroupedGemm, HopperGemmConfig): _Model(
        lambda problem, _, table, gpu, __, *rest: hopper_grouped_cost(problem, table, gpu, *rest),
        GROUPED,
        "hopper_gemm",
    ),
    (Quantize, TritonQuantizeConfig): _QUANTIZE,
    (Quantize, CudaQuantizeConfig): _QUANTIZE,
    (Quantize, CudaQuantizeNvfp4Config): _Model(
        lambda problem, _, *rest: two_walks_cost(problem, *rest), STREAM
    ),
    (Quantize, TritonQuantizeTilesConfig): _Model(tile_stream_cost, TURNS),
    (Dequantize, TritonDequantizeConfig): _Model(tile_stream_cost, TURNS),
    (Transpose, TritonTransposeConfig): _Model(tile_stream_cost, TURNS),
    (Transpose, CudaTransposeConfig): _Model(tile_stream_cost, TURNS),
    (Dataflow, DataflowBlocksConfig): _Model(dataflow_cost, STREAM),
    (Dataflow, DataflowRowsConfig): _Model(dataflow_cost, DATAFLOW_ROW),
}
#: Parameters of the families that others are made of.
_PRODUCTS: dict[str, Parameters] = {"triton_gemm": GEMM, "hopper_gemm": HOPPER_GEMM}


def template_parameters(problem: Problem, kernel: Kernel) -> dict[str, Parameters]:
    """The default parameters that pricing that problem with that family takes, by family.

    Empty for a family with a cost model of its own, whose constants are its own matter.

    Raises:
        ValueError: nothing prices that problem with that family.
    """
    if (reason := unpriced(problem, kernel)) is not None:
        raise ValueError(reason)
    # A protocol takes a tenth of a millisecond to look for its methods: most have none.
    if hasattr(kernel, "cost") and isinstance(kernel, CostModel):
        return {}
    model = _MODELS[type(problem), kernel.config_type]
    found = {kernel.name: model.parameters}
    if model.product:
        found[model.product] = _PRODUCTS[model.product]
    return found


def unpriced(problem: Problem, kernel: Kernel) -> str | None:
    """Why nothing prices that problem with that kernel family, or ``None`` when :func:`price` does.

    A family is priced by its own method ``cost`` (:class:`CostModel`), or when it has the
    configurations of one of the workbench's.
    """
    if (type(problem), kernel.config_type) in _MODELS or isinstance(kernel, CostModel):
        return None
    return (
        f"{kernel.name} has no cost model for {problem.kind} problems: "
        "measure it, or give it a method cost()"
    )


def price(
    problem: Problem,
    kernel: Kernel,
    table: ConfigTable,
    gpu: Gpu,
    facts: Mapping[int, CompileFacts] | None = None,
    *,
    parameters: Mapping[str, Parameters] | None = None,
) -> PricedTable:
    """Predict time, traffic and terms of every configuration in ``table``.

    Args:
        problem: what is computed.
        kernel: the family that the configurations belong to.
        table: configurations, legal ones; at least one.
        gpu: the GPU to predict for.
        facts: what a compiler made of some rows of the table, by row; the others' registers, shared
            memory and spills are estimated.
        parameters: template parameters by family, as :func:`template_parameters` names them; the
            defaults stand in for what is left out.
    Raises:
        ValueError: the table is empty, nothing prices that problem with that family, or the
            family's own cost model answers with what no configuration can cost.
    """
    if len(table) == 0:
        raise ValueError(f"no configuration of {kernel.name} to price for {problem} on {gpu.name}")
    reason = unpriced(problem, kernel)
    if reason is not None:
        raise ValueError(reason)
    path = kernel.path(problem, gpu.limits)
    # A protocol takes a tenth of a millisecond to look for its methods: most have none.
    if hasattr(kernel, "cost") and isinstance(kernel, CostModel):
        cost = kernel.cost(problem, table, gpu, facts or {})
        _check(cost, kernel.name, len(table))
    else:
        constants = template_parameters(problem, kernel)
        if parameters:
            constants |= {name: parameters[name] for name in constants if name in parameters}
        model = _MODELS[type(problem), kernel.config_type]
        compiled = Compiled.of(len(table), facts or {})
        cost = model.cost(problem, path, table, gpu, compiled, *constants.values())
    low_us, high_us = interval_us(cost.time_us, cost.terms_us, path, measured=gpu.measured)
    return PricedTable(
        problem=problem,
        kernel=kernel.name,
        gpu=gpu.name,
        path=path,
        table=table,
        time_us=cost.time_us,
        low_us=low_us,
        high_us=high_us,
        terms_us=cost.terms_us,
        dram_read_bytes=cost.dram_read_bytes,
        dram_write_bytes=cost.dram_write_bytes,
        l2_read_bytes=cost.l2_read_bytes,
    )


def _check(cost: object, kernel: str, rows: int) -> None:
    """Refuse what a family's own cost model may not answer with."""
    if not isinstance(cost, Cost):
        raise ValueError(f"kernel {kernel}: cost() returned {type(cost).__name__}: return sim.Cost")
    if not cost.terms_us:
        raise ValueError(f"kernel {kernel}: cost() names no term: give terms_us at least one")
    columns = {
        "time_us": cost.time_us,
        **{f"terms_us[{name!r}]": column for name, column in cost.terms_us.items()},
        "dram_read_bytes": cost.dram_read_bytes,
        "dram_write_bytes": cost.dram_write_bytes,
        "l2_read_bytes": cost.l2_read_bytes,
    }
    for name, column in columns.items():
        if np.shape(column) != (rows,):
            raise ValueError(
                f"kernel {kernel}: cost() returned {name} of shape {np.shape(column)}: "
                f"return one number for each of the {rows} configurations"
            )
        if not np.isfinite(column).all() or np.min(column) < 0:
            raise ValueError(
                f"kernel {kernel}: cost() returned {name} = {np.min(column)}: "
                "return finite numbers that are not negative"
            )
    if np.min(cost.time_us) == 0:
        raise ValueError(f"kernel {kernel}: cost() returned time_us = 0: return positive times")
