"""Spaces, rules, defaults and refusals of the tile families, and what their launches refuse."""

import dataclasses
from typing import Any

import pytest
import torch
from config_rows import distinct_rows
from gpu_limits import H200
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.formats import TensorFormat
from tiles.kernels import Accepted, Limits, Rejected, kernel
from tiles.kernels.quantize_tiles import TritonQuantizeTilesConfig
from tiles.kernels.triton import dequantize_tiles, quantize_tiles, transpose_codes
from tiles.kernels.triton.quantize_tiles_arguments import request
from tiles.problems import Dequantize, Problem, Quantize, Transpose, parse_problem

A100 = dataclasses.replace(H200, gpu="a100", capability=80, smem_bytes_per_cta=166912)
MI300 = dataclasses.replace(H200, gpu="mi300x", vendor="amd", capability=942, warp_threads=64)
FORMATS = (
    "int8.tensor int8.row int8.b32x32 int8.b64x64 int8.b128x128+sr e4m3fn.b1x128 e5m2.b128x1 "
    "e4m3fn.mx e5m2.mx+rceil e3m2fn.mx+even e2m3fn.mx+ceil e2m1fn.mx mxint8.mx nvfp4 nvfp4+sr "
    "e2m1fn.b16x16+e4m3fn+two-level int4.g128 int8.b32x32+fp16 e4m3fn.b1x128+pow2"
).split()
extents = st.integers(1, 300) | st.sampled_from([1024, 4096, 14336, 2**18])
formats = st.sampled_from(FORMATS).map(TensorFormat.parse)
plain = st.sampled_from(["bf16", "fp16", "fp32"])
quantize = st.builds(
    Quantize, rows=extents, cols=extents, source=plain, target=formats, transposed=st.booleans()
)
problems = st.one_of(
    quantize,
    st.builds(Dequantize, rows=extents, cols=extents, source=formats, out=plain),
    st.builds(
        Transpose, rows=extents, cols=extents, element=st.sampled_from(["int8", "e4m3fn", "e5m2"])
    ),
)
FAMILIES = {
    Quantize: "triton_quantize_tiles",
    Dequantize: "triton_dequantize",
    Transpose: "triton_transpose",
}


@settings(max_examples=120, deadline=None)
@given(problem=problems, limits=st.sampled_from([H200, A100, MI300]))
def test_default_is_legal_and_the_space_has_legal_rows(problem: Problem, limits: Limits) -> None:
    family = kernel(FAMILIES[type(problem)])
    if family.refusal(problem, limits) is not None:
        return
    verdict = family.judge(problem, family.default(problem, limits), limits)
    assert isinstance(verdict, Accepted), verdict
    space = family.legal_space(problem, limits)
    assert len(space.accepted) > 0
    assert distinct_rows(space.table) == len(space.table) <= 1000


@pytest.mark.parametrize(
    "text",
    [
        # Whole rows in a tile, and so many of them that a transposed tile would span 2^31.
        "quantize:262144x14336:int8.row:bf16",
        "quantize:8388608x512:int8.b1x128:bf16",
        "dequantize:8388608x512:int8.b1x128:bf16",
    ],
)
def test_many_rows_are_legal(text: str) -> None:
    problem = parse_problem(text)
    family = kernel(FAMILIES[type(problem)])
    assert family.refusal(problem, H200) is None
    assert isinstance(family.judge(problem, family.default(problem, H200), H200), Accepted)


def test_many_rows_are_launched() -> None:
    def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    rows, cols = 262144, 14336
    request(
        meta(rows, cols, dtype=torch.bfloat16),
        meta(rows, cols, dtype=torch.int8),
        meta(rows, 1, dtype=torch.float32),
        element="int8", block=(1, 0), stored="fp32", rule="absmax", tensor_scale=None, seed=None,
        swizzled=False, codes_t=None, scales_t=None,
        config=CONFIG | {"block_rows": 1, "block_cols": 16384},
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_texts_read_back(problem: Problem) -> None:
    assert parse_problem(str(problem)) == problem


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("quantize:64x64:int8.b48x80:bf16", "blocks of powers of two"),
        ("quantize:64x64:e3m4.b1x32:bf16", "writes int8"),
        ("quantize:64x64:e4m3fn.b1x32+nosat:bf16", "saturates"),
        ("quantize:64x64:int8.b1x32+mse:bf16", "searches no scales"),
        ("quantize:64x64:int8.b1x32+rtz:bf16", "nearest even or stochastically"),
        ("quantize:64x64:int8.b1x32+e4m3fn:bf16", "second level only"),
        ("quantize:64x64:int8.col:bf16", "no whole columns"),
        ("quantize:64x64:int8.row:bf16:transposed", "no whole columns"),
        ("quantize:64x65536:int8.row:bf16", "elements of a tile"),
        ("quantize:64x64:uint8.b1x32:bf16", "writes int8"),
        ("transpose:64x64:int8", "serves quantize problems"),
    ],
)
def test_refusals_say_why(text: str, reason: str) -> None:
    refusal = kernel("triton_quantize_tiles").refusal(parse_problem(text), H200)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("triton_quantize", "quantize:64x64:int8.b32x32:bf16:transposed"),
        ("triton_quantize", "quantize:64x64:int8.b32x32+sr:bf16"),
        ("triton_quantize", "quantize:64x64:nvfp4:bf16:swizzled"),
        ("cuda_quantize", "quantize:64x64:int8.b1x128:bf16:transposed"),
        ("cuda_quantize", "quantize:64x64:nvfp4:bf16:swizzled"),
    ],
)
def test_other_families_leave_copies_and_swizzles_alone(family: str, text: str) -> None:
    assert kernel(family).refusal(parse_problem(text), H200) is not None


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"block_rows": 3}, "powers of two"),
        ({"num_warps": 64}, "threads"),
        ({"block_rows": 16}, "whole blocks"),
        ({"block_cols": 4096}, "elements a thread"),
        ({"num_warps": 16}, "elements a thread"),
    ],
)
def test_rules_name_what_is_wrong(change: dict[str, int], rule: str) -> None:
    family, problem = (
        kernel("triton_quantize_tiles"),
        parse_problem("quantize:64x64:int8.b32x32:bf16"),
    )
    good = {"block_rows": 32, "block_cols": 32, "num_warps": 4, "software_cast": False}
    assert isinstance(family.judge(problem, TritonQuantizeTilesConfig(**good), H200), Accepted)
    verdict = family.judge(problem, TritonQuantizeTilesConfig(**(good | change)), H200)
    assert isinstance(verdict, Rejected)
    assert verdict.rule == rule


def test_old_gpus_round_8_bit_floats_by_integer_operations() -> None:
    family, problem = kernel("triton_quantize_tiles"), parse_problem("quantize:64x64:e5m2.mx:bf16")
    assert family.default(problem, A100).to_dict()["software_cast"]
    assert not family.default(problem, H200).to_dict()["software_cast"]


@pytest.mark.parametrize("text", ["quantize:8x8:int8.b4x4:bf16:swizzled", "quantize:8x8:int8:bf16"])
def test_problems_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="target"):
        parse_problem(text)


@pytest.mark.parametrize("options", ["transposed:transposed", "swizzled:transposed", "fast"])
def test_options_stand_in_their_order_and_once(options: str) -> None:
    with pytest.raises(ValueError, match=r"options|write"):
        parse_problem(f"quantize:8x8:nvfp4:bf16:{options}")


X = torch.zeros(64, 64, dtype=torch.bfloat16)
CONFIG = {"block_rows": 32, "block_cols": 64, "num_warps": 4, "software_cast": False}
CODES = torch.zeros(64, 64, dtype=torch.int8)
QUANTIZE: dict[str, Any] = {
    "x": X,
    "codes": CODES,
    "scales": torch.zeros(2, 2),
    "element": "int8",
    "block": (32, 32),
    "config": CONFIG,
}
BYTES = torch.zeros(512, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X.double()}, TypeError, "x has dtype torch.float64"),
        ({"x": X.t()[:, ::2]}, ValueError, "x has strides"),
        ({"x": X[0]}, ValueError, "non-empty matrix"),
        ({"codes": X}, TypeError, "codes have dtype torch.bfloat16"),
        ({"codes": CODES[:, :32]}, ValueError, "codes have shape"),
        ({"element": "e2m1fn"}, ValueError, "codes have shape"),
        ({"element": "int7"}, ValueError, "element 'int7': choose one of"),
        ({"stored": "e8m0"}, ValueError, "stored 'e8m0': choose one of"),
        ({"rule": "floor"}, ValueError, "rule 'floor' of fp32 scales"),
        ({"scales": torch.zeros(2, 3)}, ValueError, "scales have shape"),
        ({"scales": torch.zeros(2, 2, dtype=torch.half)}, TypeError, "scales have dtype"),
        ({"block": (3, 32)}, ValueError, "scales have shape"),
        ({"block": (-1, 32)}, ValueError, "extents are powers of two"),
        ({"block": (0, 32)}, ValueError, "extents are powers of two"),
        ({"block": (1, 0), "scales": torch.zeros(64, 1), "config": CONFIG | {"block_cols": 32}},
         ValueError, "whole rows of 64"),
        ({"swizzled": True}, ValueError, "only one-byte scales"),
        ({"seed": 2**64}, ValueError, "64-bit unsigned"),
        ({"codes_t": torch.zeros(64, 64, dtype=torch.int8)}, ValueError, "takes scales_t"),
        ({"scales_t": torch.zeros(2, 2)}, ValueError, "without codes_t"),
        ({"codes_t": CODES, "scales_t": torch.zeros(2, 2)}, ValueError, "overlaps codes"),
        ({"tensor_scale": torch.zeros(1)}, ValueError, "they alone, take a tensor_scale"),
        ({"scales": torch.zeros(2, 2, device="meta")}, ValueError, "must share one device"),
        ({"config": CONFIG | {"stage": 1}}, ValueError, "wrong or missing field"),
        ({"config": CONFIG | {"block_rows": 24}}, ValueError, "must be a power of two"),
        ({"config": CONFIG | {"block_rows": 16}}, ValueError, "does not consist of whole 32x32"),
    ],
)  # fmt: skip
def test_quantize_refuses_before_it_launches(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantize_tiles.launch(**(QUANTIZE | change))


DEQUANTIZE: dict[str, Any] = {
    "codes": CODES,
    "scales": torch.zeros(2, 2),
    "out": torch.zeros(64, 64),
    "element": "int8",
    "block": (32, 32),
    "config": CONFIG,
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"out": torch.zeros(64, 64, dtype=torch.int32)}, TypeError, "out has dtype"),
        ({"out": torch.zeros(64, 128)[:, ::2]}, ValueError, "out has strides"),
        ({"out": torch.zeros(64)}, ValueError, "non-empty matrix"),
        ({"codes": CODES[:32]}, ValueError, "codes have shape"),
        ({"scales": torch.zeros(4, 2)}, ValueError, "scales have shape"),
        ({"stored": "e4m3fn"}, ValueError, "they alone, take a tensor_scale"),
        ({"block": (3, 32)}, ValueError, "extents are powers of two"),
        ({"swizzled": True}, ValueError, "only one-byte scales"),
        ({"codes": torch.empty(2**30 + 1, 16, device="meta", dtype=torch.int8),
          "out": torch.empty(2**30 + 1, 16, device="meta"), "block": (0, 16)},
         ValueError, "out: 1073741825 rows or columns under one scale, at most 1073741824"),
        ({"out": CODES.view(torch.int8).new_zeros(64, 64, device="meta", dtype=torch.float)},
         ValueError, "must share one device"),
        ({"config": {}}, ValueError, "wrong or missing field"),
    ],
)  # fmt: skip
def test_dequantize_refuses_before_it_launches(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dequantize_tiles.launch(**(DEQUANTIZE | change))


@pytest.mark.parametrize(
    ("codes", "out", "error", "message"),
    [
        (CODES, CODES, ValueError, "overlaps codes"),
        (CODES, torch.zeros(64, 32, dtype=torch.int8), ValueError, "it must be"),
        (CODES, torch.zeros(64, 64, dtype=torch.uint8), TypeError, "out has dtype"),
        (X, CODES, TypeError, "one-byte dtype"),
        (CODES.t()[:32], CODES, ValueError, "codes has strides"),
        (CODES[0], CODES, ValueError, "non-empty matrix"),
    ],
)
def test_transpose_refuses_before_it_launches(
    codes: torch.Tensor, out: torch.Tensor, error: type[Exception], message: str
) -> None:
    config = {"block_rows": 32, "block_cols": 32, "num_warps": 1}
    with pytest.raises(error, match=message):
        transpose_codes.launch(codes, out, config=config)
