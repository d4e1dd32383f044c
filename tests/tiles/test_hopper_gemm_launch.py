"""What the Hopper GEMM's launcher refuses, and what it launches."""

import sys
from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from hopper_gemm_cases import GOOD, OVER_C, ROW, config
from recorded_launches import check_refuses, record

from tiles.kernels.cuda import gemm_hopper, hopper_grid


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"a": array((64, 256, 1), "uint8")}, ValueError, "a has 3 dimensions"),
        ({"a": array((64, 256), "int8")}, TypeError, "a has dtype int8: it must be uint8"),
        ({"b": array((128, 128), "uint8")}, ValueError, r"b has shape .*: it must be \(128, 256\)"),
        ({"c": array((64, 128), "float32")}, TypeError, "c has dtype float32: it must be uint16"),
        ({"c": array((64, 64), "uint16")}, ValueError, r"c has shape \(64, 64\)"),
        ({"a": array((0, 256), "uint8"), "c": array((0, 128), "uint16")}, ValueError, "not empty"),
        ({"a": array((64, 256), "uint8", pointer=4104)}, ValueError, "a: rows must be contiguous"),
        ({"a": array((64, 256), "uint8", strides=(264, 1))}, ValueError, "multiples of 16 bytes"),
        ({"a": array((64, 256), "uint8", strides=(0, 1))}, ValueError, "multiples of 16 bytes"),
        ({"b": array((128, 256), "uint8", strides=(1, 128))}, ValueError, "b: rows must be"),
        ({"c": array((64, 128), "uint16", pointer=4098)}, ValueError, "c: rows must be"),
        ({"a_scale": None}, TypeError, "a_scale is NoneType"),
        ({"a_scale": array((64, 2), "float32")}, ValueError, "its columns must be contiguous"),
        (
            {"a_scale": array((64, 2), "float32", strides=(4, 264))},
            ValueError,
            "a multiple of 16 bytes apart",
        ),
        (
            {"a_scale": array((64, 2), "float32", strides=(4, 128))},
            ValueError,
            "its columns must be contiguous",
        ),
        ({"b_scale": array((1, 2), "float32", strides=(4, 4))}, ValueError, "must be row-major"),
        ({"b_scale": array((2, 2), "float32")}, ValueError, r"b_scale has shape \(2, 2\)"),
        ({"scales": "none"}, ValueError, "a_scale is given: scales 'none' take none"),
        (ROW | {"a_scale": array((64, 1), "float16")}, TypeError, "a_scale has dtype float16"),
        ({"scales": "mx"}, ValueError, "scales 'mx': choose one of none, tensor, row"),
        ({"element": "e3m4"}, ValueError, "element 'e3m4': choose one of bf16, fp16"),
        ({"out": "int8"}, ValueError, "out 'int8': choose one of bf16, fp16, fp32"),
        ({"b": array((128, 256), "uint8", device=1)}, ValueError, "must share one"),
        ({"b": array((128, 256), "uint8", pointer=OVER_C)}, ValueError, "c overlaps b"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_n=80).to_dict()}, ValueError, "block_n = 80"),
        ({"config": config(block_m=64).to_dict()}, ValueError, "block_m = 64"),
        ({"config": config(pingpong=True).to_dict()}, ValueError, "no pingpong"),
        (ROW | {"config": config(stages=9).to_dict()}, ValueError, "stages = 9"),
        (ROW | {"config": config(block_m=256, block_n=192).to_dict()}, ValueError, "block_n = 192"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_refuses(monkeypatch, gemm_hopper, GOOD | change, error, message)


def test_an_integer_sum_that_could_overflow_is_refused() -> None:
    k = 133152
    long = GOOD | {
        "a": array((64, k), "int8"),
        "b": array((128, k), "int8"),
        "a_scale": array((64, 1), "float32"),
        "b_scale": array((128, 1), "float32"),
    }
    with pytest.raises(ValueError, match="int32 sums of int8 products could overflow past 133144"):
        gemm_hopper.launch(**(long | {"element": "int8", "scales": "row"}))


@pytest.mark.parametrize(
    "change",
    [
        {},
        ROW,
        {"a": array((64, 256), "uint8", strides=(4096, 1))},
        {"a_scale": array((64, 2), "float32", strides=(4, 16384))},
        # Strides of a lone row or column mean nothing.
        {
            "a": array((1, 256), "uint8", strides=(7, 1)),
            "c": array((1, 128), "uint16", strides=(2, 2)),
            "a_scale": array((1, 2), "float32", strides=(8, 16)),
        },
        {
            "a": array((64, 128), "uint8"),
            "b": array((128, 128), "uint8"),
            "a_scale": array((64, 1), "float32", strides=(4, 4)),
            "b_scale": array((1, 1), "float32"),
        },
    ],
    ids=["plain", "row", "rows apart", "scales apart", "one row", "one block of K"],
)
def test_good_operands_get_as_far_as_cupy(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"cupy is missing: pip install 'tile-workbench\[cuda\]'"):
        gemm_hopper.launch(**(GOOD | change))


def test_tensor_maps_and_grid_follow_rows_that_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record(monkeypatch, gemm_hopper)
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    apart = {
        "a": array((300, 256), "uint8", strides=(512, 1), pointer=1 << 20),
        "c": array((300, 128), "uint16", strides=(1024, 2), pointer=1 << 21),
        "a_scale": array((300, 2), "float32", strides=(4, 8192), pointer=1 << 22),
        "config": config(cluster=2).to_dict(),
    }
    gemm_hopper.launch(**(GOOD | apart))
    assert found.maps == [
        (1 << 20, 1, 256, 300, 512, (128, 128)),
        (GOOD["b"].data.ptr, 1, 256, 128, 256, (128, 64)),
        # No element behind the last row is read, whatever lies between columns.
        (1 << 22, 4, 300, 2, 8192, (128, 1)),
        (1 << 21, 2, 128, 300, 1024, (64, 64)),
    ]
    ((grid, block, arguments, smem),) = found.launches
    # Three rows of tiles make two clusters of two; there is one column of tiles.
    assert (grid, block) == (4, 384)
    assert arguments[:4] == ("map 1", "map 2", "map 3", "map 4")
    assert [int(x) for x in arguments[4:]] == [1 << 22, GOOD["b_scale"].data.ptr, 300, 128, 256]
    assert smem == gemm_hopper.smem_bytes(scales="b1x128", config=apart["config"])
