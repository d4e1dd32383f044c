"""Bad arguments of the dataflow launchers, named before anything is launched."""

from typing import Any

import numpy as np
import pytest
from cupy_arrays import array
from device_on_host import HostArray
from recorded_launches import HeldKernel

from tiles.kernels.cuda import dataflow_blocks, dataflow_rows, launches

BLOCK = {"threads": 64, "lanes": 32, "steps": 1, "ctas": 1}
ROW = {"threads": 64, "lanes": 32, "rows": 32, "splits": 1, "clusters": 1, "ctas": 1}


def codes(rows: int = 64, cols: int = 96, dtype: str = "int8") -> HostArray:
    return HostArray(np.zeros((rows, cols), dtype))


def floats(*shape: int) -> HostArray:
    return HostArray(np.zeros(shape, np.float32))


def elsewhere(array: HostArray) -> HostArray:
    array.device = "another"
    return array


X = codes()
GOOD: dict[str, Any] = {
    "x": X, "x_scales": floats(2, 3), "out": codes(), "out_scales": floats(2, 3), "op": "gelu",
    "element": "int8", "block": (32, 32), "config": BLOCK,
}  # fmt: skip
NORM = {"mean": floats(64), "variance": floats(64), "gamma": floats(96), "beta": floats(96)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"op": "tanh"}, ValueError, "op 'tanh': choose one of gelu"),
        ({"element": "e5m2"}, ValueError, "element 'e5m2'"),
        ({"block": (32, 24)}, ValueError, "must be powers of two"),
        ({"config": BLOCK | {"lanes": 128}}, ValueError, "lanes = 128"),
        ({"config": BLOCK | {"threads": 48}}, ValueError, "threads = 48"),
        ({"config": BLOCK | {"ctas": 0}}, ValueError, "ctas = 0"),
        ({"config": {"threads": 64}}, ValueError, "config has fields"),
        ({"x": np.zeros((64, 96), np.int8)}, TypeError, "x is ndarray: it must be a CuPy array"),
        ({"x": codes(dtype="uint8")}, TypeError, "x has dtype uint8: it must be int8"),
        ({"out": codes(64, 64)}, ValueError, r"out has shape \(64, 64\)"),
        ({"out": HostArray(np.zeros((96, 64), np.int8).T)}, ValueError, "C-contiguous"),
        ({"x_scales": floats(2, 2)}, ValueError, r"need \(2, 3\)"),
        ({"out_scales": elsewhere(floats(2, 3))}, ValueError, "must share one device"),
        ({"out": X}, ValueError, "out overlaps x"),
        ({"op": "gelu-bwd"}, TypeError, "dy is NoneType"),
        ({"dy": codes()}, ValueError, "dy is given: gelu takes none"),
        ({"op": "layernorm-apply"}, TypeError, "mean is missing: layernorm-apply reads it"),
        ({"op": "rmsnorm-apply", **NORM}, ValueError, "beta is given: rmsnorm-apply takes none"),
        (
            {"op": "layernorm-apply", **NORM, "gamma": floats(64)},
            ValueError,
            r"contiguous of shape \(96,\)",
        ),
        ({"op": "layernorm-apply", **NORM, "epsilon": 0.0}, ValueError, "epsilon = 0.0"),
        ({"probability": 0.5}, ValueError, "only dropout takes one"),
        ({"op": "dropout", "probability": 1.0}, ValueError, "probability = 1.0"),
        ({"seed": -1}, ValueError, "64-bit unsigned"),
    ],
)
def test_blockwise_launch_refuses(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dataflow_blocks.prepare(**(GOOD | change))


ROWS: dict[str, Any] = {
    **{name: value for name, value in GOOD.items() if name != "config"},
    "op": "layernorm", "config": ROW, **NORM,
}  # fmt: skip
BACK = {
    "op": "layernorm-bwd", "beta": None, "other": codes(), "other_scales": floats(2, 3),
    "d_gamma": floats(96), "d_beta": floats(96), "partials": floats(1, 2, 96),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"op": "gelu"}, ValueError, "op 'gelu': choose one of residual"),
        ({"config": ROW | {"rows": 48}}, ValueError, "rows = 48: whole blocks"),
        ({"config": ROW | {"splits": 16}}, ValueError, "splits = 16"),
        ({"config": ROW | {"clusters": 0}}, ValueError, "clusters = 0"),
        ({"other": codes()}, ValueError, "other is given: layernorm takes none"),
        (
            {
                "block": (1, 1024),
                "x": codes(4, 4096),
                "out": codes(4, 4096),
                "x_scales": floats(4, 4),
                "out_scales": floats(4, 4),
                "config": ROW | {"rows": 1, "lanes": 64},
            },
            ValueError,
            "lanes = 64: 64 share a row of a block, take at most 32",
        ),
        (
            {
                **BACK,
                "block": (1, 256),
                "x": codes(4, 512),
                "out": codes(4, 512),
                "other": codes(4, 512),
                "other_scales": floats(4, 2),
                "x_scales": floats(4, 2),
                "out_scales": floats(4, 2),
                "config": ROW | {"rows": 1, "lanes": 16},
            },
            ValueError,
            r"block = \(1, 256\): sums over rows take blocks of 128 columns",
        ),
        ({"variance": floats(96)}, ValueError, r"variance has shape \(96,\)"),
        ({"mean": ROWS["out_scales"]}, ValueError, r"mean has shape \(2, 3\)"),
        ({"variance": NORM["mean"]}, ValueError, "overlaps"),
        ({**BACK, "partials": floats(2, 2, 96)}, ValueError, "partials has shape"),
        ({**BACK, "d_beta": None}, TypeError, "d_beta is missing"),
        ({**BACK, "other": None}, TypeError, "other is NoneType"),
        ({"op": "residual", "gamma": None, "beta": None}, TypeError, "other is NoneType"),
    ],
)
def test_row_launch_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dataflow_rows.prepare(**(ROWS | change))


def test_tables_have_the_shared_memory_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 512 threads, 16 a block, some 64 KiB: more than a kernel has without asking for it."""
    given = {
        **{name: array((64, 96), "int8") for name in ("x", "out")},
        **{name: array((2, 3), "float32") for name in ("x_scales", "out_scales")},
        "op": "gelu", "element": "int8", "block": (32, 32),
        "config": BLOCK | {"threads": 512, "lanes": 16},
    }  # fmt: skip
    kernel = HeldKernel(monkeypatch)
    monkeypatch.setattr(dataflow_blocks, "functions", lambda *key: (kernel,))
    monkeypatch.setattr(launches, "shared_memory_bytes", lambda device: 227 * 1024)
    dataflow_blocks.launch(**given)
    assert kernel.launched == [66048]
    monkeypatch.setattr(launches, "shared_memory_bytes", lambda device: 64 * 1024)
    with pytest.raises(ValueError, match=r"66048 bytes of shared memory .* threads = 512, lanes"):
        dataflow_blocks.launch(**given)


def test_good_arguments_pass() -> None:
    assert dataflow_blocks.prepare(**GOOD)
    assert dataflow_rows.prepare(**ROWS)
    assert dataflow_rows.prepare(**(ROWS | BACK))
