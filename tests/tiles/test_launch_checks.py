"""What all launchers refuse: outputs that overlap themselves, memory of a GPU not current."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cupy_arrays import array
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from tiles.kernels.cuda.overlap import check_apart
from tiles.kernels.triton import (
    dequantize_tiles,
    gemm_batched,
    gemm_decoded,
    gemm_grouped,
    gemm_outliers,
    gemm_scaled,
    gemm_weight_only,
    quantize_blocks,
    quantize_tiles,
    transpose_codes,
)
from tiles.kernels.triton.decoded_element import named_element
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.kernels.triton.launch_checks import check_memory
from tiles.kernels.triton.outlier_operands import KeptColumns
from tiles.kernels.triton.weight_layout import PackedWeight

LAYOUTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=1, max_size=4)


def addresses(layout: list[tuple[int, int]]) -> list[int]:
    """Where the elements of (extent, stride) pairs lie."""
    places = itertools.product(*(range(extent) for extent, _ in layout))
    return [sum(i * s for i, (_, s) in zip(at, layout, strict=True)) for at in places]


def refused(check: Callable[[], None]) -> bool:
    told = ""
    try:
        check()
    except ValueError as error:
        told = str(error)
    assert not told or "its elements overlap" in told
    return bool(told)


@given(layout=LAYOUTS, negative=st.integers(0, 15))
def test_an_output_whose_elements_meet_is_refused(
    layout: list[tuple[int, int]], negative: int
) -> None:
    shape, strides = zip(*layout, strict=True)
    tensor = torch.empty(256).as_strided(shape, strides)
    turned = tuple(4 * s * (-1 if negative >> i & 1 else 1) for i, s in enumerate(strides))
    other = array(shape, "float32", strides=turned)
    told = refused(lambda: check_memory({"c": tensor}, {}))
    assert told == refused(lambda: check_apart({"c": other}, {}))
    distinct = addresses(layout)
    if len(set(distinct)) < len(distinct):
        assert told


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_any_order_of_dimensions_with_gaps_is_taken(shape: list[int], data: st.DataObject) -> None:
    wide = torch.empty([n + data.draw(st.integers(0, 2)) for n in shape])
    view = wide[tuple(slice(0, n) for n in shape)].permute(
        data.draw(st.permutations(range(len(shape))))
    )
    check_memory({"c": view}, {})
    check_apart(
        {"c": array(tuple(view.shape), "float32", strides=tuple(4 * s for s in view.stride()))}, {}
    )


TILE = {"block_m": 16, "block_n": 16, "block_k": 32, "group_m": 1, "num_warps": 4, "num_stages": 2}


def _int8(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int8, device="cuda:1")


def _bytes(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.uint8, device="cuda:1")


def _fp32(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="cuda:1")


def _half(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16, device="cuda:1")


def _weight() -> PackedWeight:
    return PackedWeight(
        codes=_bytes(1, 16, 64), scale=None, zero=None, row_scale=_fp32(16), element="int8",
        scale_format="", group=0, columns=64,
    )  # fmt: skip


def _stored(rows: int) -> StoredMatrix:
    return StoredMatrix(codes=_bytes(rows, 64), columns=64, element=named_element("e3m4fn"))


UNSCALED: dict[str, Any] = {"a_block": None, "b_block": None}
KEPT = {"outlier_k": 16, "tma": False}
CODES = {"block_rows": 16, "block_cols": 64, "num_warps": 4}
SCALES = {"element": "int8", "block": (1, 64)}
LAUNCHES: dict[str, Callable[[], None]] = {
    "scaled": lambda: gemm_scaled.launch(
        *(_half(16, 64), _half(16, 64), _fp32(16, 16), None, None),
        **UNSCALED,
        config={**TILE, "tma": False, "persistent": False},
    ),
    "batched": lambda: gemm_batched.launch(
        *(_half(2, 16, 64), _half(2, 16, 64), _fp32(2, 16, 16), None, None),
        second="nk",
        **UNSCALED,
        config={**TILE, "tma": False},
    ),
    "grouped": lambda: gemm_grouped.launch(
        *(_half(2, 16, 64), _half(2, 16, 64), _fp32(2, 16, 16), None, None),
        counts=torch.empty(2, dtype=torch.int32, device="cuda:1"),
        **UNSCALED,
        config={**TILE, "tma": False, "ctas_per_sm": 1},
        num_sms=4,
    ),
    "outliers": lambda: gemm_outliers.launch(
        *(_int8(16, 64), _int8(16, 64), _fp32(16, 16), _fp32(16, 1), _fp32(16, 1)),
        KeptColumns(
            a=_half(16, 64),
            b=_half(16, 64),
            count=torch.empty(1, dtype=torch.int32, device="cuda:1"),
        ),
        a_block=(1, 0),
        b_block=(1, 0),
        config={**TILE, **KEPT},
    ),
    "weight only": lambda: gemm_weight_only.launch(
        *(_half(16, 64), _weight(), _fp32(16, 16)),
        config={**{n: TILE[n] for n in TILE if n != "block_k"}, "split_k": 1, "tma": False,
                "fold": False},
    ),
    "decoded": lambda: gemm_decoded.launch(
        *(_stored(16), _stored(16), _fp32(16, 16)),
        config={**TILE, "tma": False, "persistent": False, "staged": False, "native": False},
    ),
    "quantize blocks": lambda: quantize_blocks.launch(
        *(_half(16, 64), _int8(16, 64), _fp32(16, 1)),
        block=(1, 64),
        config={**CODES, "num_stages": 1, "software_cast": False},
    ),
    "quantize tiles": lambda: quantize_tiles.launch(
        *(_half(16, 64), _int8(16, 64), _fp32(16, 1)),
        **SCALES,
        config={**CODES, "software_cast": False},
    ),
    "dequantize": lambda: dequantize_tiles.launch(
        *(_int8(16, 64), _fp32(16, 1), _half(16, 64)),
        **SCALES,
        config={**CODES, "software_cast": False},
    ),
    "transpose": lambda: transpose_codes.launch(_int8(16, 64), _int8(64, 16), config=CODES),
}  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHES)
def test_memory_of_another_gpu_than_the_current_one_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    told = r"lies on cuda:1, the current device is cuda:0: launch within torch.cuda.device\(1\)"
    with FakeTensorMode(), pytest.raises(ValueError, match=told):
        LAUNCHES[name]()
