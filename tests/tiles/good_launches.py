"""Arguments that every family's ``launch`` takes, for tests that spoil one of them.

CuPy's arrays are stand-ins without memory; torch's tensors lie on the CPU.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cupy_arrays import array

from tiles.kernels import kernels
from tiles.kernels.triton.decoded_element import named_element
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.kernels.triton.outlier_operands import KeptColumns
from tiles.kernels.triton.weight_layout import PackedWeight

__all__ = ["ALL", "LAUNCHES", "OF_LAYERS", "Launch", "launch_of", "template"]

TILE = {"block_m": 16, "block_n": 16, "block_k": 32, "group_m": 1, "num_warps": 4, "num_stages": 2}
CODES = {"block_rows": 16, "block_cols": 64, "num_warps": 4}
PLAIN = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
TURNS = {"pingpong": False, "store_buffers": 1, "chained": False}
BLOCKS = {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
FEW = {"block_m": 8, "block_n": 32, "warp_rows": 16, "warps_k": 1, "stages": 4, "per_sm": 0,
       "cluster": 1, "wgmma": False}  # fmt: skip
MANY = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4, "store_buffers": 1}
UNSCALED: dict[str, Any] = {"a_block": None, "b_block": None, "a_scale": None, "b_scale": None}
ROWS = {"a_block": (1, 0), "b_block": (1, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A family's launch: arguments that it takes, and those that it writes."""

    make: Callable[[], dict[str, Any]]
    written: tuple[str, ...] = ("c",)
    strided: tuple[str, ...] = ()  #: may lie in any strides
    spare: tuple[str, ...] = ()  #: may be left out
    longer: tuple[str, ...] = ()  #: may have more elements than it takes


def _i8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int8)


def _u8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def _half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float16)


def _packed() -> PackedWeight:
    return PackedWeight(
        codes=_u8(1, 16, 64), scale=None, zero=None, row_scale=torch.ones(16), element="int8",
        scale_format="", group=0, columns=64,
    )  # fmt: skip


def _stored(rows: int) -> StoredMatrix:
    return StoredMatrix(
        codes=_u8(rows, 64), columns=64, element=named_element("e4m3fn"), scales=_u8(rows, 2),
        block=(1, 32), stored="e8m0fnu",
    )  # fmt: skip


def _int8_rows(batch: tuple[int, ...] = (), second: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        "a": _i8(*batch, 32, 64), "b": _i8(*second, 48, 64), "c": torch.zeros(*batch, 32, 48),
        "a_scale": torch.ones(*batch, 32, 1), "b_scale": torch.ones(*second, 48, 1), **ROWS,
    }  # fmt: skip


def _hopper(config: dict[str, Any], scales: str = "row", **more: Any) -> dict[str, Any]:
    grids = {
        "row": ((256, 1), (128, 1)),
        "b128x128": ((2, 3), (1, 3)),
        "mx": ((256, 12), (128, 12)),
    }[scales]
    stored = "uint8" if scales == "mx" else "float32"
    return {
        "a": array((256, 384), "uint8"), "b": array((128, 384), "uint8"),
        "c": array((256, 128), "uint16"), "a_scale": array(grids[0], stored),
        "b_scale": array(grids[1], stored), "element": "e4m3fn", "out": "bf16",
        "scales": scales, "config": config, **more,
    }  # fmt: skip


def _aligned() -> dict[str, Any]:
    given = _hopper(PLAIN | {"store_buffers": 1}, scales="mx")
    return given | {"workspace": array((1 << 20,), "uint8")}


def _grouped() -> dict[str, Any]:
    return _hopper(
        PLAIN | TURNS, b=array((5, 128, 384), "uint8"), b_scale=array((5, 128, 1), "float32"),
        offsets=array((6,), "int64"), counts=array((5,), "int32"),
    )  # fmt: skip


def _weights(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "x": array((8, 256), "uint16"), "codes": array((2, 64, 64), "uint8"),
        "c": array((8, 64), "uint16"), "scale": array((2, 64), "float16"),
        "zero": array((2, 64), "uint8"), "row_scale": array((64,), "float32"), "element": "bf16",
        "out": "bf16", "weight": "uint4", "scale_format": "fp16", "group": 128, "config": config,
    }  # fmt: skip


def _dataflow(op: str, config: dict[str, Any]) -> dict[str, Any]:
    given = {
        "x": array((64, 96), "int8"), "out": array((64, 96), "int8"), "op": op, "element": "int8",
        "x_scales": array((2, 3), "float32"), "out_scales": array((2, 3), "float32"),
        "block": (32, 32), "config": config,
        "mean": array((64,), "float32"), "variance": array((64,), "float32"),
        "gamma": array((96,), "float32"),
    }  # fmt: skip
    if op == "layernorm-apply":
        return given | {"beta": array((96,), "float32")}
    return given | {
        "other": array((64, 96), "int8"), "other_scales": array((2, 3), "float32"),
        "d_gamma": array((96,), "float32"), "d_beta": array((96,), "float32"),
        "partials": array((1, 2, 96), "float32"),
    }  # fmt: skip


LAUNCHES: dict[str, Launch] = {
    "triton_gemm": Launch(
        make=lambda: {**_int8_rows(), "config": {**TILE, "tma": False, "persistent": False}},
        strided=("a_scale", "b_scale"),
    ),
    "triton_batched_gemm": Launch(
        make=lambda: {
            **_int8_rows((3,), (3,)), "second": "nk", "config": {**TILE, "tma": False},
        },
        strided=("a_scale", "b_scale"),
    ),
    "triton_grouped_gemm": Launch(
        make=lambda: {
            **_int8_rows((), (5,)), "offsets": torch.zeros(6, dtype=torch.int64), "num_sms": 3,
            "config": {**TILE, "tma": False, "ctas_per_sm": 1},
        },
        strided=("a_scale", "b_scale"),
    ),
    "triton_decoded_gemm": Launch(
        make=lambda: {
            "a": _stored(32), "b": _stored(48), "c": torch.zeros(32, 48),
            "config": {**TILE, "tma": False, "persistent": False, "staged": False, "native": False},
        },
        strided=("a.scales", "b.scales"),
    ),
    "triton_outlier_gemm": Launch(
        make=lambda: {
            **_int8_rows(), "config": {**TILE, "outlier_k": 16, "tma": False},
            "outliers": KeptColumns(
                a=_half(32, 64), b=_half(48, 64), count=torch.zeros(1, dtype=torch.int32)
            ),
        },
        strided=("a_scale", "b_scale"),
    ),
    "triton_weight_only": Launch(
        make=lambda: {
            "x": _half(32, 64), "weight": _packed(), "c": torch.zeros(32, 16),
            "config": {"block_m": 16, "block_n": 16, "group_m": 1, "split_k": 1, "num_warps": 4,
                       "num_stages": 2, "tma": False, "fold": False},
        },
    ),
    "triton_quantize": Launch(
        make=lambda: {
            "x": _half(16, 64), "codes": _i8(16, 64), "scales": torch.zeros(16, 1),
            "block": (1, 64), "config": {**CODES, "num_stages": 1, "software_cast": False},
        },
        written=("codes", "scales"),
        strided=("scales",),
    ),
    "triton_quantize_tiles": Launch(
        make=lambda: {
            "x": _half(16, 64), "codes": _i8(16, 64), "scales": torch.zeros(16, 1),
            "block": (1, 64), "element": "int8", "config": {**CODES, "software_cast": False},
        },
        written=("codes", "scales"),
        strided=("scales",),
    ),
    "triton_dequantize": Launch(
        make=lambda: {
            "codes": _i8(16, 64), "scales": torch.ones(16, 1), "out": _half(16, 64),
            "block": (1, 64), "element": "int8", "config": {**CODES, "software_cast": False},
        },
        written=("out",),
        strided=("scales",),
    ),
    "triton_transpose": Launch(
        make=lambda: {"codes": _i8(16, 64), "out": _i8(64, 16), "config": CODES}, written=("out",),
    ),
    "hopper_gemm": Launch(make=lambda: _hopper(PLAIN | TURNS)),
    "hopper_skinny_gemm": Launch(
        make=lambda: _hopper(
            {"block_m": 16, "block_n": 64, "stages": 4, "cluster": 1, "interleaved": False}
        ),
    ),
    "hopper_block_gemm": Launch(make=lambda: _hopper(PLAIN | BLOCKS, "b128x128")),
    "hopper_aligned_gemm": Launch(make=_aligned, written=("c", "workspace"), longer=("workspace",)),
    "hopper_grouped_gemm": Launch(make=_grouped, spare=("offsets", "counts")),
    "hopper_weight_only": Launch(make=lambda: _weights(FEW)),
    "hopper_weight_prefill": Launch(make=lambda: _weights(MANY)),
    "cuda_quantize": Launch(
        make=lambda: {
            "x": array((64, 96), "uint16"), "codes": array((64, 96), "int8"),
            "scales": array((2, 3), "float32"), "codes_t": array((96, 64), "int8"),
            "scales_t": array((3, 2), "float32"), "source": "bf16", "target": "int8",
            "block": (32, 32),
            "config": {"threads": 128, "lanes": 32, "vector": 8, "unroll": 1},
        },
        written=("codes", "scales", "codes_t", "scales_t"),
        strided=("scales", "scales_t"),
    ),
    "cuda_quantize_nvfp4": Launch(
        make=lambda: {
            "x": array((64, 96), "uint16"), "codes": array((64, 48), "uint8"),
            "scales": array((64, 6), "uint8"), "tensor_scale": array((1,), "float32"),
            "workspace": array((3,), "uint32"),
            "config": {
                "num_warps": 2, "stages": 2, "held": 1, "fused": True, "kept_mib": 0,
            },
        },
        written=("codes", "scales", "tensor_scale", "workspace"),
        longer=("workspace",),
    ),
    "cuda_transpose": Launch(
        make=lambda: {
            "codes": array((64, 96), "int8"), "out": array((96, 64), "int8"),
            "config": {"block_rows": 64, "block_cols": 64, "num_warps": 1},
        },
        written=("out",),
    ),
    "cuda_dataflow_blocks": Launch(
        make=lambda: _dataflow(
            "layernorm-apply", {"threads": 64, "lanes": 32, "steps": 1, "ctas": 1}
        ),
        written=("out", "out_scales"),
        strided=("x_scales", "out_scales"),
    ),
    "cuda_dataflow_rows": Launch(
        make=lambda: _dataflow(
            "layernorm-bwd",
            {"threads": 64, "lanes": 32, "rows": 32, "splits": 1, "clusters": 1, "ctas": 1},
        ),
        written=("out", "out_scales", "d_gamma", "d_beta", "partials"),
        strided=("x_scales", "out_scales", "other_scales"),
    ),
}  # fmt: skip


def _square(**more: Any) -> dict[str, Any]:
    return {"codes": _i8(64, 96), "scales": torch.zeros(2, 3), "block": 32, **more}


#: Templates of ``workbench.nn`` alone, by module; their launches take tensors in this order.
OF_LAYERS: dict[str, Launch] = {
    "activation_tiles": Launch(
        make=lambda: _square(
            x=_i8(64, 96), x_scales=torch.ones(2, 3), dy=_half(64, 96), op="gelu", seed=1,
            num_warps=4,
        ),
        written=("codes", "scales"),
        strided=("scales", "x_scales"),
    ),
    "turned_tiles": Launch(
        make=lambda: _square(
            x=_half(96, 64),
            config={"block_rows": 32, "block_cols": 32, "num_warps": 1, "software_cast": False},
        ),
        written=("codes", "scales"),
        strided=("scales",),
    ),
    "placed_tiles": Launch(
        make=lambda: _square(
            x=_half(32, 96), codes_t=_i8(96, 64), scales_t=torch.zeros(3, 2), place=(32, 0),
            seed=None,
        ),
        written=("codes", "scales", "codes_t", "scales_t"),
        strided=("scales", "scales_t"),
    ),
    "residual_tiles": Launch(
        make=lambda: _square(
            x=_half(64, 96), y=_i8(64, 96), total=_half(64, 96), y_scales=torch.ones(2, 3),
            codes_t=_i8(96, 64), scales_t=torch.zeros(3, 2), seed=None,
        ),
        written=("total", "codes", "scales", "codes_t", "scales_t"),
        strided=("scales", "scales_t", "y_scales"),
        spare=("y_scales",),  # of numbers
    ),
    "norm_gradient": Launch(
        make=lambda: {
            "x": _i8(64, 96), "x_scales": torch.ones(2, 3), "dy": _half(64, 96),
            "mean": torch.zeros(64), "variance": torch.ones(64), "gamma": torch.ones(96),
            "total": _half(64, 96), "partials": torch.zeros(64, 2, 96), "onto": _half(64, 96),
            "op": "layernorm", "epsilon": 1e-5, "block": 32,
        },
        written=("total", "partials"),
        strided=("x_scales",),
        spare=("onto",),
    ),
    "rounded_tiles": Launch(
        make=lambda: _square(x=_half(64, 96), out=_half(64, 96)),
        written=("codes", "scales", "out"),
        strided=("scales",),
    ),
}  # fmt: skip
ALL = LAUNCHES | OF_LAYERS


def template(name: str) -> Any:
    """The module of a family's ``launch``, or of a template of layers."""
    if name in OF_LAYERS:
        return importlib.import_module(f"tiles.kernels.triton.{name}")
    path = kernels()[name].template
    return importlib.import_module(f"tiles.kernels.{path.parent.name}.{path.stem}")


def launch_of(name: str) -> Callable[..., None]:
    """A launch by its arguments' names."""
    module = template(name)
    if name not in OF_LAYERS:
        launch: Callable[..., None] = module.launch
        return launch

    def by_name(**given: Any) -> None:
        kernel, programs, arguments, constants = module._call(**given)
        kernel[(programs,)](*arguments, **constants)

    return by_name
