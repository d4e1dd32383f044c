"""Folds: every judged row is held out once, and nothing of it is trained on."""

from dataclasses import replace

import numpy as np
import pytest
from measured_cases import hopper_table, measured

from sim.evaluation.splits import Split, folds, group, parse_split
from tiles.problems import parse_problem

TABLES = (
    measured("gemm:16x4096x1024:bf16:bf16"),
    measured("gemm:16x4096x1024:e4m3-row:bf16"),
    measured("gemm:4096x4096x4096:e4m3-row:bf16", table=hopper_table(), family="hopper_gemm"),
    measured("gemm:512x4096x8192:deepseek-fp8:bf16"),
    measured("gemm:512x4096x8192:bf16:bf16", in_view=True),
)

GROUPS = {
    Split.SHAPE: ["gemm 16x4096x1024"] * 2 + ["gemm 4096x4096x4096"] + ["gemm 512x4096x8192"] * 2,
    Split.M_REGIME: ["M <= 64"] * 2 + ["M > 1024"] + ["M 65..1024"] * 2,
    Split.K_REGIME: ["K <= 1024"] * 2 + ["K 1025..4096"] + ["K > 4096"] * 2,
    Split.FORMAT: [
        "bf16 by bf16",
        "e4m3fn 1xall fp32 by e4m3fn 1xall fp32",
        "e4m3fn 1xall fp32 by e4m3fn 1xall fp32",
        "e4m3fn 1x128 fp32 by e4m3fn 128x128 fp32",
        "bf16 by bf16",
    ],
    Split.BLOCK_SIZE: [
        "unscaled by unscaled",
        "1xall by 1xall",
        "1xall by 1xall",
        "1x128 by 128x128",
        "unscaled by unscaled",
    ],
    Split.TEMPLATE: ["triton_gemm"] * 2 + ["hopper_gemm"] + ["triton_gemm"] * 2,
}


@pytest.mark.parametrize("split", GROUPS, ids=lambda split: split.value)
def test_groups_are_what_the_split_names(split: Split) -> None:
    assert [group(table, split) for table in TABLES] == GROUPS[split]


@pytest.mark.parametrize(
    ("m", "k", "groups"),
    [
        (64, 1024, ("M <= 64", "K <= 1024")),
        (65, 1025, ("M 65..1024", "K 1025..4096")),
        (1024, 4096, ("M 65..1024", "K 1025..4096")),
        (1025, 4097, ("M > 1024", "K > 4096")),
    ],
)
def test_regimes_end_where_their_names_say(m: int, k: int, groups: tuple[str, str]) -> None:
    one = replace(TABLES[0], problem=parse_problem(f"gemm:{m}x4096x{k}:bf16:bf16"))
    assert (group(one, Split.M_REGIME), group(one, Split.K_REGIME)) == groups


@pytest.mark.parametrize(("groups", "parts"), [(8, 8), (9, 8), (20, 8)])
def test_many_groups_share_folds(groups: int, parts: int) -> None:
    tables = [measured(f"gemm:{16 * (n + 1)}x4096x1024:bf16:bf16") for n in range(groups)]
    found = folds(tables, Split.SHAPE)
    assert len(found) == parts
    held = [[index for index, _ in fold.held_out] for fold in found]
    assert sorted(index for one in held for index in one) == list(range(groups))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("gemm:16x64x64:e4m3-tensor:bf16", "gemm:16x64x64:fp8-lm:bf16", Split.FORMAT),
        ("gemm:16x64x128:int8-b128:bf16", "gemm:16x64x128:jetfire-128:bf16", Split.FORMAT),
        (
            "dataflow:64x64:relu:int8.b32x32",
            "dataflow:64x64:gelu:int8.b32x32+sr",
            Split.FORMAT,
        ),
        (
            "quantize:64x64:int8.b32x32:bf16",
            "dataflow:64x64:relu:e4m3fn.b32x32",
            Split.BLOCK_SIZE,
        ),
        ("quantize:64x64:nvfp4:bf16", "dequantize:64x64:nvfp4:bf16", Split.FORMAT),
    ],
)
def test_what_is_the_same_under_another_name_is_held_out_with_it(
    first: str, second: str, split: Split
) -> None:
    """Recipes by name, and operators where a format was asked for, told them apart."""
    one, other = (replace(TABLES[0], problem=parse_problem(text)) for text in (first, second))
    assert group(one, split) == group(other, split)


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [
        ("dataflow:64x64:relu:int8.b32x32", "dataflow:64x64:relu:int8.b64x64", Split.FORMAT),
        ("dataflow:64x64:relu:int8.b32x32", "dataflow:64x64:relu:e4m3fn.b32x32", Split.FORMAT),
        ("gemm:16x64x64:jetfire:bf16", "gemm:16x64x64:jetfire-64:bf16", Split.BLOCK_SIZE),
        ("transpose:64x64:int8", "transpose:64x64:e4m3fn", Split.FORMAT),
        ("transpose:64x64:int8", "transpose:64x64:e4m3fn", Split.BLOCK_SIZE),
    ],
)
def test_what_differs_is_held_out_apart(first: str, second: str, split: Split) -> None:
    one, other = (replace(TABLES[0], problem=parse_problem(text)) for text in (first, second))
    assert group(one, split) != group(other, split)


@pytest.mark.parametrize("in_view", [False, True], ids=["judged", "in view"])
def test_a_row_that_two_sets_timed_is_held_out_of_both(in_view: bool) -> None:
    """The times of one would be the answers to the other."""
    first, again = measured(times=[1.0, 2.0, 3.0, 4.0]), measured(times=[1.1, 2.1, 3.1, 4.1])
    again = replace(again, in_view=in_view)
    for fold in folds([first, again], Split.ROWS):
        held = {
            [first, again][index].table.config(row)
            for index, rows in fold.held_out
            for row in rows.tolist()
        }
        trained = {one.table.config(row) for one in fold.train for row in range(len(one))}
        assert held
        assert not held & trained


@pytest.mark.parametrize("split", Split, ids=lambda split: split.value)
def test_every_judged_row_is_held_out_once(split: Split) -> None:
    seen = [
        (index, row)
        for fold in folds(TABLES, split)
        for index, rows in fold.held_out
        for row in rows.tolist()
    ]
    judged = [
        (i, row) for i, one in enumerate(TABLES) if not one.in_view for row in range(len(one))
    ]
    assert sorted(seen) == judged


@pytest.mark.parametrize("split", GROUPS, ids=lambda split: split.value)
def test_nothing_of_what_is_held_out_is_trained_on(split: Split) -> None:
    for fold in folds(TABLES, split):
        assert fold.train
        assert fold.name not in [group(one, split) for one in fold.train]
        assert {GROUPS[split][index] for index, _ in fold.held_out} == {fold.name}


def test_rows_that_are_held_out_are_not_trained_on() -> None:
    table = measured("gemm:16x4096x1024:bf16:bf16")
    parts = folds([table], Split.ROWS, seed=4)
    assert len(parts) == 4  # of five parts one is empty
    for fold in parts:
        ((_, rows),) = fold.held_out
        left = sorted(time for one in fold.train for time in one.time_us)
        assert sorted([*left, *table.time_us[rows]]) == table.time_us.tolist()


def test_rows_that_leave_nothing_to_train_on_are_no_split() -> None:
    lone = measured(table=hopper_table(), family="hopper_gemm", times=[1.0])
    assert folds([lone], Split.ROWS) == ()
    assert folds([lone, replace(lone, in_view=True)], Split.ROWS) == ()


def test_what_was_in_view_is_trained_on_alone() -> None:
    parts = folds(TABLES, Split.FORMAT)
    plain = GROUPS[Split.FORMAT][0]
    trained = [one for fold in parts if fold.name != plain for one in fold.train]
    assert any(one.in_view for one in trained)
    bf16 = next(fold for fold in parts if fold.name == plain)
    assert not any(one.in_view for one in bf16.train)


def test_rows_are_drawn_by_their_seed() -> None:
    table = measured(times=np.arange(1.0, 5.0))

    def parts(seed: int) -> list[list[int]]:
        return [fold.held_out[0][1].tolist() for fold in folds([table], Split.ROWS, seed=seed)]

    assert parts(1) == parts(1)
    assert len({str(parts(seed)) for seed in range(6)}) > 1


def test_one_group_leaves_nothing_to_train_on() -> None:
    assert folds(TABLES[:2], Split.TEMPLATE) == ()


def test_an_unknown_split_is_told_the_known_ones() -> None:
    assert parse_split("block-size") is Split.BLOCK_SIZE
    with pytest.raises(ValueError, match=r"unknown split 'shapes': did you mean 'shape'\? choose"):
        parse_split("shapes")


def test_many_groups_share_folds_and_stay_whole() -> None:
    tables = [
        measured(f"gemm:{m}x4096x1024:{name}:bf16")
        for m in range(16, 16 * 21, 16)
        for name in ("bf16", "e4m3-row")
    ]
    parts = folds(tables, Split.SHAPE)
    assert len(parts) == 8
    seen = sorted(index for fold in parts for index, _ in fold.held_out)
    assert seen == list(range(40))
    for fold in parts:
        held = {group(tables[index], Split.SHAPE) for index, _ in fold.held_out}
        assert 2 <= len(held) <= 3
        assert held.isdisjoint(group(one, Split.SHAPE) for one in fold.train)
