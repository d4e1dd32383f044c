"""The launcher of the Hopper GEMM for few rows or tiles: what it refuses, and what it launches."""

from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from hopper_gemm_cases import GOOD, ROW
from hopper_skinny_cases import config
from recorded_launches import check_refuses, record

from tiles.kernels.cuda import gemm_hopper_skinny

MX = {
    "scales": "mx",
    "a_scale": array((64, 8), "uint8"),
    "b_scale": array((128, 8), "uint8"),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"a": np.ones((64, 256))}, TypeError, "a is ndarray: it must be a CuPy array"),
        ({"a": None}, TypeError, "a is NoneType: it must be a CuPy array"),
        ({"b": [[1]]}, TypeError, "b is list: it must be a CuPy array"),
        ({"b": array((128, 128), "uint8")}, ValueError, r"b has shape .*: it must be \(128, 256\)"),
        ({"c": array((64, 128), "uint16", pointer=4098)}, ValueError, "c: rows must be"),
        ({"a_scale": array((64, 2), "float32")}, ValueError, "its columns must be contiguous"),
        ({"scales": "none"}, ValueError, "a_scale is given: scales 'none' take none"),
        ({"element": "e3m4"}, ValueError, "element 'e3m4': choose one of bf16, fp16"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=24).to_dict()}, ValueError, "block_m = 24"),
        ({"config": config(block_n=96).to_dict()}, ValueError, "block_n = 96"),
        ({"config": config(block_m=176).to_dict()}, ValueError, "176 accumulators a thread"),
        (ROW | {"config": config(stages=25).to_dict()}, ValueError, "stages = 25"),
        (ROW | {"config": config(cluster=3).to_dict()}, ValueError, "cluster = 3"),
        (
            {"scales": "mx", "a_scale": array((64, 8), "float32")},
            TypeError,
            "a_scale has dtype float32: it must be uint8",
        ),
        (
            MX | {"b_scale": array((128, 2), "uint8")},
            ValueError,
            r"b_scale has shape \(128, 2\): it must be \(128, 8\)",
        ),
        (
            MX | {"b_scale": array((128, 8), "uint8", strides=(1, 128))},
            ValueError,
            r"b_scale has strides \(1, 128\): it must be row-major",
        ),
        (
            MX | {"config": config(block_n=256).to_dict()},
            ValueError,
            "block_m = 16, block_n = 256: MX scales take 128 by 64, 128 by 128, 128 by 192 at most",
        ),
        (
            {
                "scales": "b128x128",
                "a_scale": array((1, 2), "float32"),
                "config": config(block_m=48).to_dict(),
            },
            ValueError,
            "block_m = 48: 128x128 scales of A",
        ),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = GOOD | {"config": config().to_dict()}
    check_refuses(monkeypatch, gemm_hopper_skinny, good | change, error, message)


def test_tensor_maps_and_grid_follow_tiles_and_pitches(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record(monkeypatch, gemm_hopper_skinny)
    fields = config(block_m=32, block_n=128, cluster=4).to_dict()
    apart: dict[str, Any] = {
        "a": array((70, 256), "uint8", strides=(512, 1), pointer=1 << 20),
        "b": array((300, 256), "uint8"),
        "c": array((70, 300), "uint16", strides=(1024, 2), pointer=1 << 21),
        "a_scale": array((70, 2), "float32", strides=(4, 8192), pointer=1 << 22),
        "b_scale": array((3, 2), "float32"),
        "config": fields,
    }
    gemm_hopper_skinny.launch(**(GOOD | apart))
    assert found.maps == [
        (1 << 20, 1, 256, 70, 512, (128, 32)),
        (apart["b"].data.ptr, 1, 256, 300, 256, (128, 128)),
        (1 << 22, 4, 70, 2, 8192, (32, 1)),
    ]
    ((grid, block, arguments, smem),) = found.launches
    # 3 x 3 tiles, 4 CTAs each; two warpgroups and a warp.
    assert (grid, block) == (36, 288)
    assert arguments[:3] == ("map 1", "map 2", "map 3")
    b_scale = apart["b_scale"].data.ptr
    assert [int(x) for x in arguments[3:]] == [1 << 22, b_scale, 1 << 21, 1024, 70, 300, 256]
    assert smem == gemm_hopper_skinny.smem_bytes(scales="b1x128", config=fields)


def test_mx_scales_go_to_the_kernel_as_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record(monkeypatch, gemm_hopper_skinny)
    given = GOOD | MX | {"config": config(block_m=64, stages=4).to_dict()}
    gemm_hopper_skinny.launch(**given)
    ((grid, block, arguments, smem),) = found.launches
    assert (grid, block) == (2, 160)
    assert [int(x) for x in arguments[3:5]] == [MX[x].data.ptr for x in ("a_scale", "b_scale")]
    # Four stages: 128 rows of 128 bytes and of four floats; barriers.
    assert smem == 4 * 128 * (128 + 16) + 4 * 16
