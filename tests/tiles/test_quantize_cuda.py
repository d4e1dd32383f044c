"""The CUDA C++ quantisation: compiled by NVRTC without a driver, and its launcher's refusals."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvrtc_compile import compile_cuda

from tiles.kernels.cuda import quantize_blocks
from tiles.kernels.cuda.block_arrays import division

SOURCE = Path(quantize_blocks.__file__).with_name(quantize_blocks.SOURCE)
WARP = {"threads": 256, "lanes": 16, "vector": 8, "unroll": 2}
CASES = {
    "b1x128": ("bf16", "int8", (1, 128), 4096, WARP),
    "b128x128": ("fp16", "e4m3fn", (128, 128), 4096, WARP | {"lanes": 256, "unroll": 1}),
    "b32x32": ("fp32", "e5m2", (32, 32), 4096, WARP | {"lanes": 32, "vector": 4, "unroll": 1}),
    "row": ("bf16", "e4m3fn", (1, 0), 4096, WARP | {"lanes": 256, "unroll": 1}),
    "row read twice": ("bf16", "int8", (1, 0), 2**20, WARP | {"lanes": 256, "unroll": 1}),
    "b3x5": ("bf16", "e5m2", (3, 5), 40, WARP | {"vector": 1, "unroll": 1}),
}
RANDOM, TURNED = {"stochastic": True}, {"transposed": True}
#: What is asked for beside them.
MORE: dict[str, dict[str, bool]] = {
    "b32x32, random": RANDOM,
    "b32x32, turned": RANDOM | TURNED,
    "b128x128, turned": TURNED,
    "row, random": RANDOM,
}
CASES |= {
    "b32x32, random": ("bf16", "int8", (32, 32), 4096, WARP | {"lanes": 32}),
    "b32x32, turned": ("fp16", "int8", (32, 32), 4096, WARP | {"lanes": 32}),
    "b128x128, turned": ("bf16", "e4m3fn", (128, 128), 4096, WARP | {"lanes": 256, "unroll": 1}),
    "row, random": ("fp32", "int8", (1, 0), 4096, WARP | {"lanes": 128, "unroll": 1}),
}


def compiled(options: tuple[str, ...], architecture: str) -> str:
    """PTX; warnings count as failures."""
    found = compile_cuda(SOURCE, (*options, f"--gpu-architecture={architecture}"))
    assert not found.log
    return found.ptx


@pytest.mark.parametrize(
    ("case", "architecture", "aligned"),
    [
        *((case, "sm_90a", True) for case in CASES),
        *((case, arch, True) for case in ("b1x128", "b32x32") for arch in ("sm_80", "sm_100a")),
        ("b1x128", "sm_90a", False),
        ("row", "sm_80", False),
    ],
)
def test_compiles_without_warnings(case: str, architecture: str, aligned: bool) -> None:
    source, target, block, cols, config = CASES[case]
    options = quantize_blocks.options(
        source=source, target=target, block=block, shape=(256, cols), aligned=aligned,
        config=config, **MORE.get(case, {}),
    )  # fmt: skip
    # CuPy asks for flushed subnormals whatever its caller says; divisions, products and comparisons
    # that may meet a subnormal value or scale must not follow.
    ptx = compiled((*options, "-ftz=true"), architecture)
    assert not re.search(r"(div|mul|fma|rcp|neg|abs)[.\w]*\.ftz", ptx)
    assert not re.search(r"setp\.(eq|ne|equ|neu)\.ftz\.f32 .*0f00000000", ptx)
    if aligned and config["vector"] > 1:
        assert re.search(r"ld\.global\.nc\.v4", ptx)
        assert re.search(r"st\.global\.v2|st\.global\.u32|st\.global\.b32", ptx)
    if target != "int8":
        assert ("cvt.rn.satfinite" in ptx) == (architecture != "sm_80")


@given(n=st.integers(0, 2**31 - 1), divisor=st.integers(1, 2**24))
def test_division_by_multiplication_is_exact(n: int, divisor: int) -> None:
    magic, shift = division(divisor)
    assert magic < 2**32
    assert ((n * magic >> 32) + n) >> shift == n // divisor


ADDRESSES = itertools.count(1 << 30, 1 << 30)


def array(
    shape: tuple[int, ...],
    dtype: str,
    device: int = 0,
    contiguous: bool = True,
    pointer: int | None = None,
    strides: tuple[int, ...] | None = None,
) -> Any:
    """What the launcher looks at in a CuPy array, in memory of its own."""
    strides = strides or np.empty(shape, dtype).strides
    return SimpleNamespace(
        shape=shape,
        ndim=len(shape),
        size=int(np.prod(shape)),
        dtype=np.dtype(dtype),
        strides=strides,
        flags=SimpleNamespace(c_contiguous=contiguous),
        data=SimpleNamespace(ptr=next(ADDRESSES) if pointer is None else pointer),
        device=device,
    )


OVER_CODES = 1 << 20
GOOD = {
    "x": array((4, 256), "uint16"),
    "codes": array((4, 256), "uint8", pointer=OVER_CODES + 256),
    "scales": array((4, 2), "float32"),
    "source": "bf16",
    "target": "e4m3fn",
    "block": (1, 128),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((4, 256))}, TypeError, "x is ndarray: it must be a CuPy array"),
        ({"x": array((4, 256), "int32")}, TypeError, "x has dtype int32: it must be uint16"),
        ({"codes": array((4, 256), "int8")}, TypeError, "codes has dtype int8: it must be uint8"),
        ({"codes": array((4, 128), "uint8")}, ValueError, "codes has shape"),
        ({"scales": array((4, 3), "float32")}, ValueError, r"need \(4, 2\)"),
        ({"x": array((4, 256), "uint16", contiguous=False)}, ValueError, "must be C-contiguous"),
        ({"x": array((4, 256), "uint16", device=1)}, ValueError, "must share one device"),
        ({"x": array((4, 256), "uint16", pointer=OVER_CODES)}, ValueError, "codes overlaps x"),
        (
            {"scales": array((4, 2), "float32", strides=(0, 4))},
            ValueError,
            r"scales of shape \(4, 2\) has strides \(0, 4\): its elements overlap",
        ),
        (
            # Mirrored: its elements lie before its address, within those of the codes.
            {"scales": array((4, 2), "float32", pointer=OVER_CODES + 1280, strides=(-8, 4))},
            ValueError,
            "codes overlaps scales",
        ),
        ({"source": "int4"}, ValueError, "source 'int4': choose one of fp32, bf16, fp16"),
        ({"block": (0, 0)}, ValueError, "for one scale a row"),
        ({"codes_t": array((256, 4), "uint8")}, ValueError, "takes both"),
        (
            {"codes_t": array((4, 256), "uint8"), "scales_t": array((2, 4), "float32")},
            ValueError,
            r"codes_t has shape \(4, 256\): it must be \(256, 4\)",
        ),
    ],
)
def test_launch_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = GOOD | change
    with pytest.raises(error, match=message):
        quantize_blocks._validate(**arguments)


@pytest.mark.parametrize(
    ("place", "block", "message"),
    [
        (
            (16, 0),
            (32, 32),
            r"part of 32 x 64 at \(16, 0\) of 96 x 128: parts lie inside, and begin",
        ),
        ((0, 96), (32, 32), r"at \(0, 96\) of 96 x 128: parts lie inside"),
        ((-32, 0), (32, 32), r"at \(-32, 0\) of 96 x 128"),
        ((0, 0), (64, 64), "end at whole blocks of 64 x 64"),
        ((0, 0), (1, 0), r"a part of a matrix has blocks of columns, not \(1, 0\)"),
    ],
)
def test_parts_are_of_whole_blocks(
    place: tuple[int, int], block: tuple[int, int], message: str
) -> None:
    grid = -(-96 // block[0]), -(-128 // block[1]) if block[1] else 1
    with pytest.raises(ValueError, match=message):
        quantize_blocks._validate(
            array((32, 64), "uint16"), array((96, 128), "int8"), array(grid, "float32"), "bf16",
            "int8", block, place=place,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 100}, "threads = 100: it must be a multiple of 32"),
        ({"lanes": 3}, "lanes = 3: it must be a power of two"),
        ({"vector": 16}, "vector = 16: it must be 1, 4, 8 or 16 and divide a block's 40 columns"),
        ({"unroll": 0}, "unroll = 0"),
        ({"warps": 3}, "config has fields"),
    ],
)
def test_options_refuse(change: dict[str, int], message: str) -> None:
    config = WARP | change
    with pytest.raises(ValueError, match=message):
        quantize_blocks.options(
            source="bf16",
            target="int8",
            block=(1, 40),
            shape=(4, 4096),
            aligned=True,
            config=config,
        )


def test_only_int8_is_rounded_stochastically() -> None:
    with pytest.raises(ValueError, match="'e4m3fn': only int8"):
        quantize_blocks.prepare(
            *(GOOD[name] for name in ("x", "codes", "scales")),
            **{name: GOOD[name] for name in ("source", "target", "block")},
            config=WARP,
            seed=1,
        )


def macros(x: Any, codes: Any, config: dict[str, int], **more: Any) -> dict[str, int]:
    """What a launch of 32x32 blocks is compiled with."""
    rows, cols = x.shape
    grid = (-(-rows // 32), -(-cols // 32))
    chosen, *_ = quantize_blocks.prepare(
        x, codes, array(grid, "float32"), source="bf16", target="int8", block=(32, 32),
        config=config, **more,
    )  # fmt: skip
    return {o[2:].partition("=")[0]: int(o.partition("=")[2]) for o in chosen if o[:2] == "-D"}


@pytest.mark.parametrize(
    ("shape", "pointer", "turned", "aligned", "even"),
    [
        ((256, 256), 1 << 40, False, 1, 1),
        ((250, 256), 1 << 40, False, 1, 0),
        ((256, 264), 1 << 40, False, 1, 0),
        ((32, 96), 1 << 40, False, 1, 0),
        ((256, 250), 1 << 40, False, 0, 0),
        ((256, 256), (1 << 40) + 8, False, 0, 0),
        ((256, 256), 1 << 40, True, 1, 1),
        ((288, 256), 1 << 40, True, 1, 0),
        ((264, 256), 1 << 40, True, 0, 0),
    ],
)
def test_vectors_and_whole_blocks_are_taken_where_they_fit(
    shape: tuple[int, int], pointer: int, turned: bool, aligned: int, even: int
) -> None:
    config = {"threads": 256, "lanes": 32, "vector": 8, "unroll": 1}
    more: dict[str, Any] = {}
    if turned:
        grid = (-(-shape[1] // 32), -(-shape[0] // 32))
        more = {"codes_t": array(shape[::-1], "int8"), "scales_t": array(grid, "float32")}
    found = macros(array(shape, "uint16", pointer=pointer), array(shape, "int8"), config, **more)
    assert (found["ALIGNED"], found["EVEN"]) == (aligned, even)


def test_a_configuration_is_refused_before_it_is_divided_by() -> None:
    with pytest.raises(ValueError, match="vector = 0: it must be 1, 4, 8 or 16"):
        quantize_blocks.precompile(
            *(GOOD[name] for name in ("x", "codes", "scales")),
            **{name: GOOD[name] for name in ("source", "target", "block")},
            config=WARP | {"vector": 0},
        )
