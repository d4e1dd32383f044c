"""The design of a recording: what it covers, that its beginnings are spread, how it is stored."""

import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sim
from tiles.kernels import ConfigTable, kernels
from tiles.problems import Gemm
from tuning.recording.choosing import BESIDE, DEEP, PLAIN, WARM, make_design
from tuning.recording.design import Design, read_design, write_design
from tuning.recording.problems import RECIPES, Shape, others, shapes, streams

GPU = sim.load_gpu("h200")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shapes_cover_every_regime_and_depth(seed: int) -> None:
    found = shapes(seed)
    assert len(RECIPES) >= 8
    assert len(found) >= 40
    assert len({(one.m, one.n, one.k) for one in found}) == len(found)
    cells = Counter(one.cell for one in found)
    assert len(cells) == 10
    assert min(cells.values()) >= 4
    depths = {one.k for one in found}
    assert (min(depths), max(depths)) == (256, 16_384)
    assert min(one.m for one in found) <= 8
    assert max(one.m for one in found) >= 8192
    assert sum(one.anchor for one in found) == 8


def test_shapes_are_their_seeds() -> None:
    assert shapes(3) == shapes(3) != shapes(4)


def test_every_beginning_of_the_order_is_spread() -> None:
    for seed in (0, 1):
        first = shapes(seed)[:12]
        rows = Counter(one.cell.split()[0] for one in first)
        assert set(rows) == {"decode", "middle", "prefill", "odd"}
        assert max(rows.values()) <= 6
        assert sum(one.anchor for one in first) == 3


def test_problems_that_are_no_plain_products_hold_their_families() -> None:
    kinds = Counter(type(one).__name__ for one in others(0))
    assert set(kinds) == {"GroupedGemm", "BatchedGemm", "Gemm"}
    assert others(0) == others(0) != others(1)


def test_streams_hold_every_operator_and_many_sizes() -> None:
    found = streams(0)
    assert {str(one).split(":")[0] for one in found} >= {
        "quantize",
        "dequantize",
        "transpose",
        "dataflow",
    }
    assert len({one.shape for one in found}) >= 6
    assert len(set(found)) == len(found)


@pytest.fixture(scope="module")
def small() -> Design:
    """An anchor and a plain shape that few families serve."""
    chosen = [
        Shape(64, 4096, 14_336, cell="decode deep", anchor=True),
        Shape(10, 1030, 520, cell="odd"),
    ]
    return make_design(GPU, 0, own_shapes=chosen)


def test_a_design_gives_every_recipe_its_share(small: Design) -> None:
    products = [one for one in small.studies if one.part == "products"]
    deep = [one for one in products if one.plan.problem.shape[0] == 64]
    by_recipe: Counter[str] = Counter()
    for one in deep:
        by_recipe[str(one.plan.problem).split(":")[2]] += len(one.configs)
        assert len(set(one.configs)) == len(one.configs) <= max(DEEP + 20, one.legal_size)
    assert set(by_recipe) == set(RECIPES)
    assert min(by_recipe.values()) >= 100
    assert sum(count >= DEEP for count in by_recipe.values()) >= 6
    leads = [one for one in deep if len(one.configs) > BESIDE]
    assert len(leads) == len(RECIPES)
    assert all(len(one.configs) in (DEEP, one.legal_size) for one in leads)
    odd: Counter[str] = Counter()
    for one in products:
        if one.plan.problem.shape[0] == 10:
            odd[str(one.plan.problem).split(":")[2]] += len(one.configs)
    assert odd == dict.fromkeys(RECIPES, PLAIN)


def test_choosing_matters_where_a_study_is_deep(small: Design) -> None:
    """The median configuration reaches at most 0.7 of the best, as predicted."""
    ratios = []
    for one in small.studies:
        if len(one.configs) < DEEP:
            continue
        priced = sim.price(one.plan.problem, one.kernel, ConfigTable.of(one.configs), GPU)
        times = priced.time_us
        assert times.argmin() == 0  # the model's best is measured first
        ratios.append(times.min() / np.median(times))
    assert max(ratios) <= 0.7


@pytest.mark.slow
def test_the_whole_design_has_every_family_and_deep_anchors() -> None:
    whole = make_design(GPU, 0)
    assert {one.plan.kernel for one in whole.studies} == set(kernels())
    anchors = {(one.m, one.n, one.k) for one in shapes(0) if one.anchor}
    deep = {}
    for one in whole.studies:
        if one.part == "products" and len(one.configs) >= DEEP:
            priced = sim.price(one.plan.problem, one.kernel, ConfigTable.of(one.configs), GPU)
            deep[one.plan.problem] = priced.time_us.min() / np.median(priced.time_us)
    assert max(deep.values()) <= 0.7
    by_recipe = Counter(one.recipe.name for one in deep if isinstance(one, Gemm))
    assert by_recipe == dict.fromkeys(RECIPES, len(anchors))
    most = {one.key for one in whole.studies}
    assert len(most) == len(whole.studies)


def test_some_studies_are_measured_warm_as_well(small: Design) -> None:
    warm = [one for one in small.studies if one.part == "warm"]
    assert warm
    assert all(one.cache == "warm" and len(one.configs) <= WARM for one in warm)
    cold = {
        (one.plan, config) for one in small.studies if one.cache == "cold" for config in one.configs
    }
    assert all((one.plan, config) in cold for one in warm for config in one.configs)


def test_shapes_share_most_of_what_is_compiled(small: Design) -> None:
    mine = [one for one in small.studies if one.plan.kernel == "triton_gemm"]
    deep = {
        (str(one.plan.problem).split(":")[2], config)
        for one in mine
        if one.plan.problem.shape[0] == 64
        for config in one.configs
    }
    other = [
        (str(one.plan.problem).split(":")[2], config)
        for one in mine
        if one.plan.problem.shape[0] == 10
        for config in one.configs
    ]
    assert sum(one in deep for one in other) >= len(other) / 4


def test_a_design_is_stored_and_read_back(small: Design, tmp_path: Path) -> None:
    path = tmp_path / "design.json.gz"
    write_design(small, path)
    first = path.read_bytes()
    assert read_design(path, GPU) == small
    write_design(small, path)
    assert path.read_bytes() == first


def test_a_pipe_is_not_replaced_by_a_design(small: Design, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: is not a regular file: choose another output"):
        write_design(small, tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_design_that_no_longer_holds_is_refused(small: Design, tmp_path: Path) -> None:
    path = tmp_path / "design.json.gz"
    few = replace(small, studies=small.studies[:2])
    changed = dict.fromkeys(small.sources, "0" * 64)
    write_design(replace(few, sources=changed), path)
    with pytest.raises(ValueError, match=r"the source of .* has changed since: remove the file"):
        read_design(path, GPU)
    write_design(replace(few, gpu_sha256="0" * 64), path)
    with pytest.raises(ValueError, match="made for another file of h200"):
        read_design(path, GPU)
    path.write_bytes(gzip.compress(json.dumps({"schema": "other"}).encode()))
    with pytest.raises(ValueError, match="its schema is 'other'"):
        read_design(path, GPU)
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="no design of a recording"):
        read_design(path, GPU)
