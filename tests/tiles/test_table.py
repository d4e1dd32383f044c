"""Configuration tables and the legality gate that every kernel family shares."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tiles.kernels import (
    Accepted,
    Backend,
    ConfigTable,
    Kernel,
    Limits,
    NumericPath,
    Rejected,
    Rule,
    Status,
    TileConfig,
    Workload,
    kernel,
    kernels,
)
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe

PROBLEM = Gemm(m=1, n=1, k=1, recipe=recipe("bf16"))
LIMITS = Limits(
    gpu="toy",
    vendor="nvidia",
    capability=90,
    smem_bytes_per_cta=10,
    registers_per_sm=1,
    threads_per_sm=1,
    warp_threads=32,
    native_elements=frozenset(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(TileConfig):
    size: int
    fast: bool


class ToyKernel(Kernel):
    name = "toy"
    backend = Backend.HOST
    config_type = ToyConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(ToyConfig, size=(4, 8, 16), fast=(False, True))

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        size = table["size"]
        return [
            Rule("memory", size > limits.smem_bytes_per_cta, lambda i: f"{size[i]} B > 10 B"),
            Rule("speed", table["fast"] & (size < 8), lambda i: f"fast needs 8, got {size[i]}"),
        ]

    def default(self, problem: Problem, limits: Limits) -> ToyConfig:
        return ToyConfig(size=4, fast=False)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        raise AssertionError("never opened here")


def test_legal_space_splits_the_whole_space_and_gives_reasons() -> None:
    space = ToyKernel().legal_space(PROBLEM, LIMITS)
    assert [str(c) for c in space.accepted] == ["size=4 fast=0", "size=8 fast=0", "size=8 fast=1"]
    assert [(str(r.config), r.rule, r.reason) for r in space.rejected] == [
        ("size=4 fast=1", "speed", "fast needs 8, got 4"),
        ("size=16 fast=0", "memory", "16 B > 10 B"),
        ("size=16 fast=1", "memory", "16 B > 10 B"),
    ]
    assert space.rejected_by_rule == {"memory": 2, "speed": 1}
    assert len(space.table) == len(space.accepted) + sum(space.rejected_by_rule.values())


def test_judging_one_configuration_agrees_with_the_table() -> None:
    family = ToyKernel()
    space = family.legal_space(PROBLEM, LIMITS)
    legal = set(space.accepted)
    for config in space.table:
        verdict = family.judge(PROBLEM, config, LIMITS)
        assert isinstance(verdict, Accepted if config in legal else Rejected)
        if isinstance(verdict, Rejected):
            assert verdict.status is Status.CONSTRAINTS


def test_a_config_round_trips_through_its_dict_and_refuses_strangers() -> None:
    config = ToyConfig(size=4, fast=True)
    assert ToyConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown field 'slow'"):
        ToyConfig.from_dict({"size": 4, "fast": True, "slow": 1})
    with pytest.raises(ValueError, match="missing field 'fast'"):
        ToyConfig.from_dict({"size": 4})
    with pytest.raises(ValueError, match="size takes int, got True"):
        ToyConfig.from_dict({"size": True, "fast": True})


def test_a_table_gives_back_the_configurations_it_was_made_of() -> None:
    configs = [ToyConfig(size=8, fast=True), ToyConfig(size=4, fast=False)]
    table = ConfigTable.of(configs)
    assert list(table) == configs
    assert table.take(np.array([1])).config(0) == configs[1]
    assert type(table.config(0).size) is int


def test_a_product_needs_every_axis() -> None:
    with pytest.raises(ValueError, match="ToyConfig: axes"):
        ConfigTable.product(ToyConfig, size=(1,))


@pytest.mark.parametrize("name", kernels())
def test_every_registered_family_has_a_template_on_disk(name: str) -> None:
    assert kernel(name).name == name
    assert kernel(name).template.is_file()


def test_an_unknown_kernel_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'triton_gemm'"):
        kernel("triton_gem")
