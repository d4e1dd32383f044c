"""The sample of configurations holds what it says, and little else."""

import numpy as np
import pytest
from config_sample import sample

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_gemm import HopperGemm
from tiles.problems import parse_problem

RECIPES = ("bf16", "e4m3-row", "deepseek-fp8", "int8-b128")


@pytest.fixture(scope="module")
def tables() -> dict[str, ConfigTable]:
    limits = load_gpu("h200").limits
    problems = {name: parse_problem(f"gemm:4096x4096x4096:{name}:bf16") for name in RECIPES}
    return {name: HopperGemm().legal_space(p, limits).accepted for name, p in problems.items()}


def test_every_recipe_has_its_largest_tiles(tables: dict[str, ConfigTable]) -> None:
    chosen = sample(tables, apart=["pingpong"], free=["group_m"])
    for name, table in tables.items():
        for turns in np.unique(table["pingpong"]):
            largest = (table["block_m"] * table["block_n"])[table["pingpong"] == turns].max()
            own = [one.to_dict() for one in chosen[name]]
            assert largest in [
                one["block_m"] * one["block_n"] for one in own if one["pingpong"] == turns
            ]


def test_all_together_have_every_tile_and_every_value(tables: dict[str, ConfigTable]) -> None:
    chosen = sample(tables, apart=["pingpong"], free=["group_m"])
    found = [one.to_dict() for own in chosen.values() for one in own]
    every = [one.to_dict() for table in tables.values() for one in table]
    for fields in (["block_m", "block_n", "pingpong"], ["stages"], ["cluster"], ["store_buffers"]):
        wanted = {tuple(one[field] for field in fields) for one in every}
        assert {tuple(one[field] for field in fields) for one in found} == wanted
    assert len(found) < 40 < len(every)
    assert chosen == sample(tables, apart=["pingpong"], free=["group_m"])
