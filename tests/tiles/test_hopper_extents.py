"""Extents, pitches, tiles and shared memory beyond what the CUDA C++ kernels or a GPU have."""

import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cupy_arrays import array
from recorded_launches import HeldKernel

from sim import load_gpu
from tiles.kernels import hopper_grouped_gemm, kernel
from tiles.kernels.cuda import (
    dataflow_rows,
    gemm_hopper,
    gemm_hopper_blocks,
    gemm_hopper_grouped,
    gemm_hopper_skinny,
    hopper_grid,
    launches,
)
from tiles.problems import parse_problem

PLAIN = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
TURNS = {"pingpong": False, "store_buffers": 1, "chained": False}
SKINNY = {"block_m": 16, "block_n": 64, "stages": 4, "cluster": 8, "interleaved": False}
BLOCKS = {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
CONFIGS: Mapping[ModuleType, Mapping[str, int | bool]] = {
    gemm_hopper: PLAIN | TURNS,
    gemm_hopper_skinny: SKINNY,
    gemm_hopper_blocks: PLAIN | BLOCKS,
    gemm_hopper_grouped: PLAIN | TURNS,
}
BEYOND = 2**31


@pytest.mark.parametrize(
    ("tile", "sides", "grid"),
    [((256, 128), (1, 2), 8), ((128, 256), (2, 1), 8), ((128, 128), (2, 1), 12)],
)
def test_a_cluster_lies_along_the_side_that_shares_the_larger_tile(
    tile: tuple[int, int],
    sides: tuple[int, int],
    grid: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 300 x 300 in tiles of 256 or 128 rows: clusters of two, the last ones ragged."""
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    config = PLAIN | {"block_m": tile[0], "block_n": tile[1], "cluster": 2}
    down, across = hopper_grid.cluster_sides(config)
    assert (down, across) == sides
    rows = -(-300 // (tile[0] * down))
    counted = hopper_grid.persistent_grid(0, rows, 300, config, across=across)
    assert counted == grid
    assert hopper_grid.cluster_sides(config | {"cluster": 1}) == (1, 1)


def operands(launcher: ModuleType, m: int, n: int, k: int, **changed: Any) -> dict[str, Any]:
    """e4m3fn by e4m3fn to bf16, without scales where the launcher has that."""
    given = {
        "a": array((m, k), "uint8", pointer=1 << 20),
        "b": array((n, k), "uint8", pointer=1 << 61),
        "c": array((m, n), "uint16", pointer=1 << 62),
        "element": "e4m3fn",
        "out": "bf16",
        "scales": "none",
        "config": dict(CONFIGS[launcher]),
    }
    if launcher is gemm_hopper_blocks:
        given["scales"] = "b128x128"
        for name, rows, at in (("a_scale", m, 59), ("b_scale", n, 60)):
            given[name] = array((-(-rows // 128), -(-k // 128)), "float32", pointer=1 << at)
    return given | changed


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets past the checks launches nothing."""
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for launcher in CONFIGS:
        monkeypatch.setattr(launcher, "tensor_map", lambda *numbers: "map")
        monkeypatch.setattr(launcher, "compiled_kernel", lambda *key: None)
    monkeypatch.setattr(launches, "launch_dependent", lambda *launch: None)
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)


@pytest.mark.parametrize("launcher", [gemm_hopper, gemm_hopper_skinny, gemm_hopper_blocks])
@pytest.mark.parametrize("name", ["M", "N", "K"])
def test_an_extent_beyond_31_bits_is_refused_by_name(launcher: ModuleType, name: str) -> None:
    shape = {"m": 128, "n": 256, "k": 384} | {name.lower(): BEYOND}
    for act in (launcher.launch, launcher.precompile):
        with pytest.raises(ValueError, match=f"{name} = {BEYOND}: the kernel's coordinates reach"):
            act(**operands(launcher, **shape))
    launcher.launch(**operands(launcher, **(shape | {name.lower(): 512})))


@pytest.mark.parametrize("launcher", [gemm_hopper, gemm_hopper_skinny, gemm_hopper_blocks])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_rows_too_far_apart_are_refused_by_argument(launcher: ModuleType, name: str) -> None:
    given = operands(launcher, 128, 256, 384)
    plain = given[name]
    far = array(
        plain.shape,
        plain.dtype.name,
        strides=(2**40, plain.dtype.itemsize),
        pointer=plain.data.ptr,
    )
    with pytest.raises(ValueError, match=f"{name}: its rows lie {2**40} bytes apart"):
        launcher.launch(**(given | {name: far}))


@pytest.mark.parametrize("launcher", [gemm_hopper, gemm_hopper_skinny, gemm_hopper_blocks])
def test_more_tiles_than_are_counted_are_refused(launcher: ModuleType) -> None:
    given = operands(launcher, 2**29, 2**29, 128)
    if launcher is gemm_hopper_blocks:  # its outputs of codes are as wide, the maps are the same
        given["config"] |= {"block_n": 64}
    given["a"].data.ptr, given["c"].data.ptr = 1 << 20, 1 << 63
    with pytest.raises(ValueError, match=r"tiles, .*: the kernel counts up to"):
        launcher.launch(**given)


def test_a_raster_group_beyond_the_counter_is_refused() -> None:
    given = operands(gemm_hopper, 256, 2**20, 128)
    given["config"] |= {"group_m": 2**20}
    with pytest.raises(ValueError, match="group_m = 1048576: the kernel counts up to"):
        gemm_hopper.launch(**given)


def grouped(rows: tuple[int, ...], experts: int, n: int, **changed: Any) -> dict[str, Any]:
    masked = len(rows) == 2
    return {
        "a": array((*rows, 128), "uint8", pointer=1 << 20),
        "b": array((experts, n, 128), "uint8", pointer=1 << 61),
        "c": array((*rows, n), "uint16", pointer=1 << 62),
        "offsets": None if masked else array((experts + 1,), "int64"),
        "counts": array((experts,), "int32") if masked else None,
        "element": "e4m3fn",
        "out": "bf16",
        "scales": "none",
        "config": dict(CONFIGS[gemm_hopper_grouped]),
    } | changed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (grouped((BEYOND,), 4, 256), f"M = {BEYOND}"),
        (grouped((512, 2**22), 512, 256), f"experts x capacity = {BEYOND}"),
        (grouped((256,), 512, 2**22), f"experts x N = {BEYOND}"),
    ],
    ids=["rows", "capacity", "weights"],
)
def test_all_experts_together_are_counted(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}: the kernel's coordinates reach"):
        gemm_hopper_grouped.launch(**given)
    gemm_hopper_grouped.launch(**grouped((512, 2**10), 512, 256))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("512x4096x64x64:bf16:masked.4194304:bf16", f"rows of A {BEYOND} > {BEYOND - 1024}"),
        ("512x4096x4194304x64:bf16:contiguous:bf16", f"experts x N {BEYOND} > {BEYOND - 1024}"),
        ("512x4096x256x128:bf16:masked.1024:bf16", None),
    ],
)
def test_the_descriptor_of_groups_refuses_them_too(text: str, reason: str | None) -> None:
    assert hopper_grouped_gemm.MAX_EXTENT == hopper_grid.MAX_EXTENT
    problem = parse_problem(f"grouped_gemm:{text}")
    found = kernel("hopper_grouped_gemm").refusal(problem, load_gpu("h200").limits)
    assert found == (reason and f"{reason}: the kernel's coordinates have 31 bits")


@pytest.mark.parametrize("launcher", [gemm_hopper, gemm_hopper_skinny, gemm_hopper_blocks])
def test_stages_that_no_cta_has_room_for_are_refused(
    launcher: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(launches, "shared_memory_bytes", lambda device: 99 * 1024)
    monkeypatch.setattr(
        launcher, "functions", lambda *key: (HeldKernel(monkeypatch, shared_size_bytes=1024),)
    )
    config = {**CONFIGS[launcher], "stages": 6, "block_n": 128}
    key = (0, "e4m3fn", "bf16", operands(launcher, 8, 8, 8)["scales"], tuple(config.items()))
    with pytest.raises(
        ValueError, match=r"for a CTA, the device has 101376: stages = 6: take fewer"
    ):
        launcher.compiled_kernel.__wrapped__(*key)
    monkeypatch.setattr(launches, "shared_memory_bytes", lambda device: 227 * 1024)
    kernel = launcher.compiled_kernel.__wrapped__(*key)
    smem = launcher.smem_bytes(scales=key[3], config=config)
    assert kernel.max_dynamic_shared_size_bytes == smem


def rows_of(cols: int, splits: int) -> dict[str, Any]:
    """LayerNorm of 32 rows, whose codes a cluster keeps."""
    blocks = cols // 32
    return {
        "x": array((32, cols), "int8"),
        "x_scales": array((1, blocks), "float32"),
        "out": array((32, cols), "int8"),
        "out_scales": array((1, blocks), "float32"),
        "mean": array((32,), "float32"),
        "variance": array((32,), "float32"),
        "gamma": array((cols,), "float32"),
        "beta": array((cols,), "float32"),
        "op": "layernorm",
        "element": "int8",
        "block": (32, 32),
        "config": {
            "threads": 256, "lanes": 32, "rows": 32, "splits": splits, "clusters": 1, "ctas": 1,
        },
    }  # fmt: skip


def test_rows_that_a_cta_cannot_keep_name_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = HeldKernel(monkeypatch, shared_size_bytes=1024)
    monkeypatch.setattr(launches, "shared_memory_bytes", lambda device: 227 * 1024)
    monkeypatch.setattr(dataflow_rows, "functions", lambda *key: (kernel,))
    advice = "splits = 1: up to 8 share a row's codes"
    for act in (dataflow_rows.launch, dataflow_rows.precompile):
        with pytest.raises(ValueError, match=f"for a CTA, the device has 232448: {advice}"):
            act(**rows_of(16384, 1))
        with pytest.raises(ValueError, match="splits = 8: rows are too long for them"):
            act(**rows_of(2**17, 8))
    assert not kernel.launched
    dataflow_rows.launch(**rows_of(16384, 4))
    assert len(kernel.launched) == 1
