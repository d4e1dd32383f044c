"""Families of many products seen as plain ones, whose rules and costs are there already."""

import numpy as np

from tiles.kernels.base import Limits
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.kernels.gemm_smem import smem_bytes
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm

__all__ = ["as_gemm_table", "b_scale_rule", "dense_rules", "dense_smem_bytes"]


def as_gemm_table(table: ConfigTable) -> ConfigTable:
    """The columns of ``GemmConfig``; loops over tiles that are not flattened count as none."""
    columns = {
        name: table[name]
        for name in (
            "block_m",
            "block_n",
            "block_k",
            "group_m",
            "num_warps",
            "num_stages",
            "tma",
        )
    }
    return ConfigTable(GemmConfig, {**columns, "persistent": np.zeros(len(table), np.bool_)})


def dense_smem_bytes(single: Gemm, table: ConfigTable) -> np.ndarray:
    """Shared memory of a CTA by configuration, bytes: as a plain product without a C descriptor.

    Scans and reductions over experts fit beside it in what is allowed for barriers.
    """
    # A and B through descriptors, C through ordinary stores of a part of the tile at a time.
    plain = as_gemm_table(table)
    plain.columns["tma"] = np.zeros(len(table), np.bool_)
    result: np.ndarray = smem_bytes(single, plain) + 2048
    return result


def dense_rules(single: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """The rules of the plain Triton product, but for those about descriptors of C."""
    smem = dense_smem_bytes(single, table)
    tma = table["tma"]
    row_bytes = single.k * single.recipe.activation.element.bits // 8
    replaced = {
        "tma alignment": Rule(
            "tma alignment",
            tma & (row_bytes % 16 != 0),
            lambda r: f"tma needs rows of multiples of 16 B, K takes {row_bytes} B",
        ),
        "shared memory": Rule(
            "shared memory",
            smem > limits.smem_bytes_per_cta,
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
    }
    rules = TritonGemm().rules(single, as_gemm_table(table), limits)
    return [replaced.get(rule.name, rule) for rule in rules]


def b_scale_rule(single: Gemm, table: ConfigTable) -> Rule:
    """A tile's columns lie under one scale of B where its scales change along K."""
    scaling = single.recipe.weight.scaling
    along_k = scaling is not None and scaling.cols is not None
    rows = (scaling.rows or 0) if scaling is not None and along_k else 0
    n = table["block_n"]
    return Rule(
        "b scale",
        np.full(len(table), along_k) & (rows % np.maximum(n, 1) != 0),
        lambda r: f"block_n {n[r]} does not divide the {rows} rows under one scale of B",
    )
