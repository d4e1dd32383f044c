"""The sample of a space holds every pair of values; needs no GPU."""

from itertools import combinations

import pytest
from covering import covering

from sim import load_gpu
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

LIMITS = load_gpu("h200").limits
TABLES = [
    kernel("triton_batched_gemm")
    .legal_space(parse_problem(f"batched_gemm:{text}"), LIMITS)
    .accepted
    for text in ("6x1024x1024x128:e4m3-row:nk:bf16", "7x129x65x77:e4m3-row:nk:fp32")
]


def _pairs(tables: list[ConfigTable]) -> set[tuple[object, ...]]:
    found = set()
    for index, table in enumerate(tables):
        for config in table:
            facts = [("problem", index), *config.to_dict().items()]
            found |= set(combinations(facts, 2))
    return found


def test_every_pair_is_met_by_few() -> None:
    chosen = covering(TABLES)
    assert _pairs([ConfigTable.of(configs) for configs in chosen]) == _pairs(TABLES)
    assert sum(map(len, chosen)) < sum(map(len, TABLES)) / 10


def test_a_limit_is_kept_and_the_best_come_first() -> None:
    chosen = covering(TABLES, 6)
    assert sum(map(len, chosen)) == 6
    everything = covering(TABLES)
    for few, all_of_them in zip(chosen, everything, strict=True):
        assert few == all_of_them[: len(few)]


@pytest.mark.parametrize("count", [1, 2])
def test_configurations_are_those_of_their_own_table(count: int) -> None:
    for configs, table in zip(covering(TABLES, 8)[:count], TABLES, strict=False):
        assert all(config in set(table) for config in configs)
