"""Proposals: always legal, always new, and the nearest to what was proposed."""

import math
from typing import Any

import fake_kernels
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.kernels import ConfigTable
from tiles.kernels.gemm import GemmConfig
from tuning.plan import Strategy
from tuning.sampler import LegalSampler, LegalTable, diverse_best


def legal_table(keep: int = 2**24 - 1) -> LegalTable:
    table = ConfigTable.product(
        fake_kernels.FakeConfig, mode=[0, 1, 2], size=[16, 32, 64, 256], flag=[False, True]
    )
    mask = np.array([bool(keep >> bit & 1) for bit in range(len(table))])
    kept = table.take(mask)
    return LegalTable(kept, np.arange(len(kept), dtype=np.float64))


def scalar_distance(a: dict[str, Any], b: dict[str, Any], logarithmic_mode: bool) -> float:
    mode = math.log2 if logarithmic_mode else float
    return (
        (mode(a["mode"]) - mode(b["mode"])) ** 2
        + (math.log2(a["size"]) - math.log2(b["size"])) ** 2
        + (float(a["flag"]) - float(b["flag"])) ** 2
    )


@settings(deadline=None)
@given(
    keep=st.integers(1, 2**24 - 1),
    tried=st.integers(0, 2**24 - 1),
    mode=st.integers(1, 2),
    size=st.integers(16, 256),
    flag=st.booleans(),
)
def test_snap_finds_the_nearest_untried_legal_configuration(
    keep: int, tried: int, mode: int, size: int, flag: bool
) -> None:
    legal = legal_table(keep)
    legal.untried[:] = [not tried >> row & 1 for row in range(len(legal))]
    if not legal.untried.any():
        return
    point = {"mode": mode, "size": size, "flag": flag}
    row = legal.nearest_untried(point)
    assert legal.untried[row]
    logarithmic = all(config.mode > 0 for config in legal.table)
    distances = {
        r: scalar_distance(point, legal.params(r), logarithmic)
        for r in range(len(legal))
        if legal.untried[r]
    }
    assert distances[row] == pytest.approx(min(distances.values()), abs=1e-6)


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("batch", [1, 5])
def test_every_strategy_tries_each_configuration_once(strategy: Strategy, batch: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    legal = legal_table(0b101101110111011101110111)
    batches: list[list[int]] = []
    sampler = LegalSampler(
        legal, strategy, 1, batch=batch, announce=lambda rows: batches.append(list(rows))
    )
    study = optuna.create_study(sampler=sampler)
    rows = []

    def objective(trial: optuna.Trial) -> float:
        params = {name: trial._suggest(name, d) for name, d in legal.space.items()}
        row = legal.row(params)
        assert row is not None
        assert trial.params == legal.params(row)
        rows.append(row)
        if row % 5 == 0:
            raise optuna.TrialPruned
        return float(legal.predicted_us[row])

    study.optimize(objective, n_trials=len(legal))
    assert sorted(rows) == list(range(len(legal)))
    if strategy in (Strategy.MODEL, Strategy.EXHAUSTIVE):
        assert rows == sorted(rows)
    assert bool(batches) == (batch > 1)


def test_tpe_is_seeded() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)

    def params(seed: int) -> list[dict[str, Any]]:
        legal = legal_table()
        study = optuna.create_study(sampler=LegalSampler(legal, Strategy.TPE, seed))

        def objective(trial: optuna.Trial) -> float:
            values = {n: trial._suggest(n, d) for n, d in legal.space.items()}
            return float(values["size"] + values["mode"])

        study.optimize(objective, n_trials=18)
        return [trial.params for trial in study.trials]

    assert params(3) == params(3)
    assert params(3) != params(4)


def test_row_of_an_unknown_configuration_is_none() -> None:
    legal = legal_table()
    assert legal.row({"mode": 0, "size": 48, "flag": False}) is None
    assert legal.row({"mode": 0}) is None
    assert legal.row(legal.params(7)) == 7


def test_seeds_are_half_the_best_and_half_unlike_them() -> None:
    table = ConfigTable.product(
        GemmConfig,
        block_m=(64, 128),
        block_n=(64, 128, 256),
        block_k=(64,),
        group_m=(1, 2),
        num_warps=(4,),
        num_stages=(2, 3, 4),
        tma=(True,),
        persistent=(False, True),
    )
    ranking = np.arange(len(table))
    seeds = diverse_best(table, ranking, 8)
    assert seeds[:4] == [0, 1, 2, 3]
    assert len(set(seeds)) == 8
    points = np.log2(np.stack([table[n] for n in ("block_m", "block_n", "num_stages")], axis=1))
    flags = np.stack([np.log2(table["group_m"]), table["persistent"]], axis=1)
    points = np.concatenate([points, flags], axis=1)
    for index in range(4, 8):
        earlier = points[seeds[:index]]
        assert ((earlier - points[seeds[index]]) ** 2).sum(axis=1).min() >= 2.0
        skipped = [r for r in range(seeds[index]) if r not in seeds[:index]]
        near = [((earlier - points[r]) ** 2).sum(axis=1).min() < 2.0 for r in skipped]
        assert all(near), "a better row that is unlike all before was passed over"


def test_seeds_of_a_small_table_are_all_of_it() -> None:
    table = ConfigTable.product(
        GemmConfig,
        block_m=(64,),
        block_n=(64,),
        block_k=(64,),
        group_m=(1, 8),
        num_warps=(4,),
        num_stages=(2, 3),
        tma=(True,),
        persistent=(False,),
    )
    assert sorted(diverse_best(table, np.array([3, 1, 0, 2]), 9)) == [0, 1, 2, 3]
