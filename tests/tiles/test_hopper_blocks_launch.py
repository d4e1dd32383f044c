"""The launcher of the Hopper GEMM with scales in blocks: what it refuses, and what it launches."""

import sys
from types import SimpleNamespace
from typing import Any

import cupy_arrays
import numpy as np
import pytest
from hopper_blocks_cases import config
from recorded_launches import Recorded, check_refuses, record

from tiles.kernels.cuda import gemm_hopper_blocks, hopper_grid


def array(shape: tuple[int, ...], dtype: str, megabyte: int, **rest: Any) -> Any:
    """An array that starts so many MiB into memory."""
    return cupy_arrays.array(shape, dtype, pointer=megabyte << 20, **rest)


GOOD: dict[str, Any] = {
    "a": array((64, 256), "int8", 1),
    "b": array((128, 256), "int8", 2),
    "c": array((64, 128), "int8", 3),
    "a_scale": array((2, 8), "float32", 4),
    "b_scale": array((4, 8), "float32", 5),
    "c_scale": array((2, 4), "float32", 6),
    "element": "int8",
    "out": "int8.b32x32",
    "scales": "b32x32",
    "config": config().to_dict(),
}
MX: dict[str, Any] = {
    "a": array((300, 256), "uint8", 1, strides=(512, 1)),
    "b": array((128, 256), "uint8", 2),
    "c": array((300, 128), "uint16", 3),
    "a_scale": array((300, 8), "float32", 4, strides=(4, 2048)),
    "b_scale": array((128, 8), "float32", 5, strides=(4, 512)),
    "c_scale": None,
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "b1x32",
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"a": array((64, 256, 1), "int8", 1)}, ValueError, "a has 3 dimensions"),
        ({"a": array((64, 256), "uint8", 1)}, TypeError, "a has dtype uint8: it must be int8"),
        ({"b": array((128, 128), "int8", 2)}, ValueError, r"b has shape .*must be \(128, 256\)"),
        ({"c": array((64, 128), "uint8", 3)}, TypeError, "c has dtype uint8: it must be int8"),
        ({"a": array((64, 256), "int8", 1, strides=(264, 1))}, ValueError, "a: rows must be"),
        ({"b": array((128, 256), "int8", 2, strides=(1, 128))}, ValueError, "b: rows must be"),
        ({"a_scale": None}, TypeError, "a_scale is NoneType"),
        ({"a_scale": array((2, 8), "float32", 4, strides=(4, 8))}, ValueError, "be row-major"),
        ({"a_scale": array((64, 8), "float32", 4)}, ValueError, r"a_scale has shape \(64, 8\)"),
        ({"c_scale": None}, TypeError, "c_scale is NoneType"),
        ({"c_scale": array((1, 4), "float32", 6)}, ValueError, r"c_scale has shape \(1, 4\)"),
        ({"out": "bf16", "c": array((64, 128), "uint16", 3)}, ValueError, "c_scale is given"),
        ({"out": "int8"}, ValueError, "out 'int8': choose one of bf16"),
        ({"scales": "mx"}, ValueError, "scales 'mx': choose one of b32x32"),
        ({"element": "bf16"}, ValueError, "element 'bf16': choose one of e4m3fn"),
        (
            {"c": array((64, 128), "int8", 1)},
            ValueError,
            "c overlaps a: what is written needs memory",
        ),
        ({"c_scale": array((2, 4), "float32", 3)}, ValueError, "overlaps c"),
        ({"b_scale": array((4, 8), "float32", 5, device=1)}, ValueError, "must share one"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=256, block_n=64).to_dict()}, ValueError, "tile 256x64"),
        ({"config": config(stages=9).to_dict()}, ValueError, "stages = 9"),
        ({"config": config(sets=3).to_dict()}, ValueError, "sets = 3"),
        ({"config": config(run=3).to_dict()}, ValueError, "run = 3: it is 1, 4 or 8"),
        ({"config": config(run=8, stages=2).to_dict()}, ValueError, "take 3 stages"),
        ({"config": config(run=8, sets=1).to_dict()}, ValueError, "and several pieces"),
        ({"config": config(consumers=3).to_dict()}, ValueError, "consumers = 3"),
        ({"config": config(consumers=4, block_n=64).to_dict()}, ValueError, "4 consumers it is"),
        (
            MX | {"a_scale": array((300, 8), "float32", 4)},
            ValueError,
            "its columns must be contiguous",
        ),
        (
            MX | {"a_scale": array((300, 8), "float32", 4, strides=(4, 1204))},
            ValueError,
            "a multiple of 16 bytes apart",
        ),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_refuses(monkeypatch, gemm_hopper_blocks, GOOD | change, error, message)


def test_a_seed_has_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="a 64-bit unsigned integer"):
            gemm_hopper_blocks.launch(**GOOD, seed=seed)


@pytest.mark.parametrize("change", [{}, MX], ids=["blocks", "rows"])
def test_good_operands_get_as_far_as_cupy(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"cupy is missing: pip install 'tile-workbench\[cuda\]'"):
        gemm_hopper_blocks.launch(**(GOOD | change))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What is launched on a GPU of 132 multiprocessors."""
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    return record(monkeypatch, gemm_hopper_blocks)


def test_scales_of_rows_go_by_tensor_maps(launched: Recorded) -> None:
    gemm_hopper_blocks.launch(**(GOOD | MX | {"config": config(cluster=2).to_dict()}))
    assert launched.maps == [
        (1 << 20, 1, 256, 300, 512, (128, 128)),
        (2 << 20, 1, 256, 128, 256, (128, 64)),
        # Four units of K a stage; no element behind the last row is read.
        (4 << 20, 4, 300, 8, 2048, (128, 4)),
        (5 << 20, 4, 128, 8, 512, (128, 4)),
        (3 << 20, 2, 128, 300, 256, (64, 64)),
    ]
    ((grid, block, arguments, smem),) = launched.launches
    # Three rows of tiles make two clusters of two; there is one column of tiles.
    assert (grid, block) == (4, 384)
    assert arguments[:5] == ("map 1", "map 2", "map 3", "map 4", "map 5")
    assert [int(x) for x in arguments[5:]] == [4 << 20, 5 << 20, 300, 128, 256]
    assert smem == gemm_hopper_blocks.smem_bytes(scales="b1x32", config=config().to_dict())


def test_codes_take_their_scales_and_the_keys(launched: Recorded) -> None:
    gemm_hopper_blocks.launch(**GOOD, seed=(7 << 32) + 5)
    # Codes are stored 128 columns at a time; scales of blocks need no map.
    assert launched.maps[-1] == (3 << 20, 1, 128, 64, 128, (128, 64))
    assert len(launched.maps) == 3
    ((_, _, arguments, _),) = launched.launches
    assert int(arguments[-2]) == 6 << 20
    words = arguments[-1]["words"]
    assert words[:4].tolist() == [5, 7, 5 + 0x9E3779B9, 7 + 0xBB67AE85]
    assert words[18] == (5 + 9 * 0x9E3779B9) % 2**32
    # A consumer stores what it has.
    for fields in ({"block_n": 64}, {"consumers": 4}):
        narrow = GOOD | {"config": config(**fields).to_dict()}
        gemm_hopper_blocks.launch(**narrow)
        assert launched.maps[-1][-1] == (64, 64)
    assert [block for _, block, _, _ in launched.launches] == [384, 384, 640]
