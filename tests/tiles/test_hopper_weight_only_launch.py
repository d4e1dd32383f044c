"""The launcher of Hopper's weight-only product: what it refuses, launches, and works in."""

from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from hopper_weight_only_cases import config
from recorded_launches import Recorded, check_refuses, record

from tiles.kernels.cuda import gemm_hopper_weight_only as launcher


def good() -> dict[str, Any]:
    """Arguments of a launch: 5 rows by 96 x 392 int4 weights with groups of 128."""
    return {
        "x": array((5, 392), "uint16"),
        "codes": array((4, 96, 64), "uint8"),
        "c": array((5, 96), "uint16"),
        "scale": array((4, 96), "float16"),
        "row_scale": array((96,), "float32"),
        "element": "bf16",
        "out": "bf16",
        "weight": "int4",
        "scale_format": "fp16",
        "group": 128,
        "config": config().to_dict(),
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((5, 392))}, TypeError, "x is ndarray: it must be a CuPy array"),
        ({"x": array((5, 392), "float32")}, TypeError, "x has dtype float32"),
        ({"codes": array((3, 96, 64), "uint8")}, ValueError, r"codes has shape .* \(4, 96, 64\)"),
        ({"codes": array((4, 96, 64), "uint8", pointer=8)}, ValueError, "codes starts at 0x8"),
        ({"c": array((5, 80), "uint16")}, ValueError, r"c has shape .* it must be \(5, 96\)"),
        ({"c": array((5, 96), "uint16", strides=(8, 2))}, ValueError, "c: rows must be"),
        ({"scale": None}, ValueError, "scale is missing: int4 weights with groups of 128"),
        ({"scale": array((96, 4), "float16")}, ValueError, r"scale has shape .* \(4, 96\)"),
        ({"zero": array((4, 96), "uint8")}, ValueError, "zero is given: int4"),
        ({"weight": "uint4"}, ValueError, "zero is missing: uint4"),
        ({"weight": "int3"}, ValueError, "weight 'int3': choose one of int4"),
        ({"group": 48}, ValueError, "group = 48 of int4: a multiple of 128"),
        ({"scale_format": ""}, ValueError, "a format goes with groups"),
        ({"element": "fp16", "scale_format": "e8m0fnu"}, ValueError, "needs the range of bf16"),
        ({"row_scale": array((5,), "float32")}, ValueError, "row_scale has shape"),
        ({"config": {"block_m": 8}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_m=24).to_dict()}, ValueError, "block_m = 24"),
        ({"config": config(block_n=40).to_dict()}, ValueError, "block_n = 40: a multiple of"),
        ({"config": config(block_n=128).to_dict()}, ValueError, "32 warps multiply: 16 at most"),
        ({"config": config(stages=49).to_dict()}, ValueError, "stages = 49"),
        (
            {"config": config(stages=6).to_dict()},
            ValueError,
            "stages = 6: a multiple of warps_k = 4",
        ),
        ({"config": config(block_m=64, warp_rows=32).to_dict()}, ValueError, "64 sums a thread"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_refuses(monkeypatch, launcher, good() | change, error, message)


def test_n_in_multiples_of_16() -> None:
    odd = {"codes": array((4, 88, 64), "uint8"), "c": array((5, 88), "uint16")}
    odd |= {"scale": array((4, 88), "float16"), "row_scale": array((88,), "float32")}
    with pytest.raises(ValueError, match="N = 88: rows of weights come in multiples of 16"):
        launcher.launch(**(good() | odd))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What would be launched on a GPU of 6 multiprocessors."""
    monkeypatch.setattr(launcher, "multiprocessors", lambda device: 6)
    return record(monkeypatch, launcher)


def test_a_tile_a_cta_needs_no_workspace(launched: Recorded) -> None:
    launcher.launch(**good())
    ((grid, block, arguments, smem),) = launched.launches
    assert (grid, block) == (2, 544)
    assert launched.maps[0][1:] == (2, 392, 5, 784, (64, 8))
    assert [int(x) for x in arguments[-4:]] == [5, 96, 4, 2]  # M, N, panels, CTAs
    assert smem == 16 * (64 * 64 + 2 * 8 * 128 + 128 + 16) + 4 * 8 * 68 * 4 + 16


def test_ctas_that_share_tiles_take_a_workspace(launched: Recorded) -> None:
    fields = config(per_sm=1, block_n=32, warps_k=1).to_dict()
    words = launcher.workspace_words(5, 96, 4, fields, 6)
    assert words == 2**14 + 2 * 6 * 8 * 32
    shared = good() | {"config": fields}
    with pytest.raises(ValueError, match=f"workspace is missing: per_sm needs {words} int32"):
        launcher.launch(**shared)
    for wrong, error, message in (
        (array((words - 1,), "int32"), ValueError, f"{words} contiguous words or more"),
        (array((words,), "float32"), TypeError, "workspace has dtype float32"),
        (array((words,), "int32", pointer=shared["x"].data.ptr), ValueError, "overlaps"),
    ):
        with pytest.raises(error, match=message):
            launcher.launch(**shared, workspace=wrong)
    assert not launched.launches
    workspace = array((words,), "int32")
    launcher.launch(**shared, workspace=workspace)
    ((grid, _, arguments, _),) = launched.launches
    assert grid == 6
    assert int(arguments[6]) == workspace.data.ptr + 4 * 2**14
    assert int(arguments[7]) == workspace.data.ptr


def test_tiles_beyond_the_counters_are_refused() -> None:
    fields = config(per_sm=1, block_n=16, warps_k=1).to_dict()
    with pytest.raises(ValueError, match="a workspace counts 16384, take per_sm 0"):
        launcher.ctas(1, 16 * 16385, 4, fields, 132)
    assert launcher.ctas(1, 16 * 16385, 4, fields | {"per_sm": 0}, 132) == 16385
