"""Modes of the scaled GEMM: what older configurations mean, which rows exist, which are legal."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gemm_cases import BASE, GEMM, gemm
from gpu_limits import A100, H200

from tiles.kernels import Accepted, ConfigTable, Rejected
from tiles.kernels.gemm import GemmConfig

LARGE = "gemm:4096x4096x4096"
SKINNY = "gemm:256x7168x2048"
WIDE = replace(BASE, block_k=128, block_n=128)


def test_configurations_of_before_the_modes_mean_none_of_them() -> None:
    stored = {
        name: value for name, value in BASE.to_dict().items() if name not in GemmConfig.defaults()
    }
    assert len(stored) == 8
    assert GemmConfig.from_dict(stored) == BASE
    with pytest.raises(ValueError, match="missing field 'block_n'"):
        GemmConfig.from_dict({name: value for name, value in stored.items() if name != "block_n"})


def test_the_plain_space_comes_first_and_unchanged() -> None:
    space = GEMM.space(gemm(f"{SKINNY}:deepseek-fp8:bf16"), H200)
    plain = np.ones(len(space), np.bool_)
    for name, value in GemmConfig.defaults().items():
        plain &= space[name] == value
    assert plain[:8000].all()
    assert not plain[8000:].any()


@pytest.mark.parametrize(
    ("problem", "limits", "modes"),
    [
        (f"{LARGE}:bf16:bf16", H200, {"subtiles", "specialize"}),
        (f"{LARGE}:deepseek-fp8:bf16", H200, {"subtiles", "overlap", "specialize"}),
        # Blocks of rows within a tile: the compiler does not halve what lies under them.
        (f"{LARGE}:jetfire:bf16", H200, {"subtiles", "overlap"}),
        (
            f"{SKINNY}:e4m3-row:bf16",
            H200,
            {"split_k", "stream_k", "subtiles", "specialize"},
        ),
        (f"{SKINNY}:int8-b128:bf16", A100, {"split_k", "stream_k"}),
        ("gemm:8192x8192x8192:bf16:bf16", A100, set()),
    ],
)
def test_a_problem_has_the_modes_that_may_pay(problem: str, limits: Any, modes: set[str]) -> None:
    legal = GEMM.legal_space(gemm(problem), limits).accepted
    found = {
        name
        for name, value in GemmConfig.defaults().items()
        if np.count_nonzero(legal[name] != value) > 20
    }
    assert found | {"stream_k"} == modes | {"stream_k"}
    assert ("stream_k" in modes) <= bool(legal["stream_k"].any())
    # A sweep grows by a good half at most.
    plain = np.logical_and.reduce([legal[n] == v for n, v in GemmConfig.defaults().items()])
    assert len(legal) < 1.7 * np.count_nonzero(plain)


@pytest.mark.parametrize(
    ("problem", "fields", "rule"),
    [
        (f"{SKINNY}:bf16:bf16", {"split_k": 16, "block_k": 64}, "split"),
        (f"{SKINNY}:bf16:bf16", {"split_k": 0}, "split"),
        (f"{SKINNY}:bf16:bf16", {"split_k": 2, "persistent": True}, "split"),
        (f"{LARGE}:bf16:bf16", {"split_k": 2}, "split tiles"),
        (f"{LARGE}:bf16:bf16", {"stream_k": True, "persistent": True}, "stream"),
        (f"{SKINNY}:bf16:bf16", {"stream_k": True}, "stream"),
        (
            f"{SKINNY}:int8-b128:bf16",
            {"split_k": 2, "num_warps": 4, "block_k": 64, "tma": False},
            "split registers",
        ),
        (f"{LARGE}:bf16:bf16", {"subtiles": 2, "persistent": True}, "subtiles"),
        (f"{LARGE}:bf16:bf16", {"subtiles": 4}, "subtiles"),
        (f"{LARGE}:bf16:bf16", {"overlap": True}, "overlap"),
        (f"{LARGE}:deepseek-fp8:bf16", {"overlap": True, "num_warps": 4}, "overlap registers"),
        (f"{LARGE}:bf16:bf16", {"specialize": True}, "specialize"),
        (f"{LARGE}:bf16:bf16", {"specialize": True, "num_warps": 4, "block_m": 64}, "specialize"),
        (
            f"{LARGE}:jetfire:bf16",
            {"specialize": True, "num_warps": 4, "block_k": 32},
            "specialize",
        ),
        # Two blocks of rows in a tile.
        *(
            (
                f"{LARGE}:{name}:bf16",
                {"specialize": True, "num_warps": 4, "block_m": 256, "block_n": 64, "block_k": 128},
                "specialize",
            )
            for name in ("e4m3-b128", "int8-b128")
        ),
    ],
)
def test_refuses_modes_where_they_cannot_pay(
    problem: str, fields: dict[str, int | bool], rule: str
) -> None:
    verdict = GEMM.judge(gemm(problem), replace(BASE, **fields), H200)  # type: ignore[arg-type]
    assert isinstance(verdict, Rejected)
    assert verdict.rule == rule
    assert "\n" not in verdict.reason


@pytest.mark.parametrize(
    ("problem", "fields"),
    [
        (f"{SKINNY}:bf16:bf16", {"split_k": 4}),
        (f"{SKINNY}:bf16:bf16", {"stream_k": True, "persistent": True}),
        (f"{LARGE}:e4m3-row:bf16", {"subtiles": 4, "persistent": True}),
        (f"{LARGE}:int8-b128:bf16", {"overlap": True}),
        (f"{LARGE}:deepseek-fp8:bf16", {"specialize": True, "num_warps": 4}),
        (f"{LARGE}:int8-b128:bf16", {"specialize": True, "num_warps": 4}),
        # A scale a row may stand beside any tile.
        (
            f"{LARGE}:deepseek-fp8:bf16",
            {"specialize": True, "num_warps": 4, "block_m": 256, "block_n": 64},
        ),
    ],
)
def test_accepts_modes_where_they_may_pay(problem: str, fields: dict[str, int | bool]) -> None:
    config = replace(WIDE, **fields)  # type: ignore[arg-type]
    if problem.endswith("bf16:bf16"):
        config = replace(config, block_k=64)
    assert GEMM.judge(gemm(problem), config, H200) == Accepted(config)


def test_tables_of_a_family_are_joined_row_by_row() -> None:
    one, two = (ConfigTable.of([replace(BASE, split_k=k)]) for k in (1, 3))
    assert list(ConfigTable.joined([one, two])) == [BASE, replace(BASE, split_k=3)]
    assert ConfigTable.joined([two]) is two
