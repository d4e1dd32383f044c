"""What a launch of the decoded product refuses before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

from tiles.kernels.triton import gemm_decoded
from tiles.kernels.triton.decoded_element import named_element
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.kernels.triton.decoded_staging import workspace_bytes

M, N, K = 20, 24, 96
CONFIG = {
    "block_m": 16,
    "block_n": 16,
    "block_k": 32,
    "group_m": 1,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
    "persistent": False,
    "staged": False,
    "native": False,
}
STAGED = {**CONFIG, "staged": True}


def u8(*shape: int) -> Any:
    return torch.zeros(shape, dtype=torch.uint8)


def mx(rows: int, name: str = "e4m3fn", wide: int = K) -> StoredMatrix:
    return StoredMatrix(
        codes=u8(rows, wide),
        columns=K,
        element=named_element(name),
        scales=u8(rows, 3),
        block=(1, 32),
        stored="e8m0fnu",
    )


def plain(rows: int, name: str, wide: int = K) -> StoredMatrix:
    return StoredMatrix(codes=u8(rows, wide), columns=K, element=named_element(name))


def long_rows(rows: int, columns: int = 2**23 + 1) -> StoredMatrix:
    """Rows so long that a tile spans 2^31 elements; no memory behind them."""
    codes = torch.empty(rows, columns, dtype=torch.uint8, device="meta")
    return StoredMatrix(codes=codes, columns=columns, element=named_element("posit8es1"))


def tall(rows: int) -> StoredMatrix:
    """Under one scale; no memory behind it."""
    codes = torch.empty(rows, 16, dtype=torch.uint8, device="meta")
    return StoredMatrix(
        codes=codes,
        columns=16,
        element=named_element("e3m4fn"),
        scales=torch.empty(1, 1, device="meta"),
    )


def uint8(rows: int) -> StoredMatrix:
    return replace(
        plain(rows, "uint8"),
        scales=torch.ones(rows, 1),
        block=(1, 0),
        zero_points=u8(rows, 1),
    )


def call(a: StoredMatrix, b: StoredMatrix, c: Any = None, **rest: Any) -> None:
    out = torch.empty(M, N) if c is None else c
    gemm_decoded.launch(a, b, out, **{"config": CONFIG, **rest})


META_OUT = torch.empty(M, N, device="meta")
CASES: dict[str, tuple[Callable[[], None], type[Exception], str]] = {
    "dtype of codes": (
        lambda: call(replace(mx(M), codes=torch.zeros(M, K)), mx(N)),
        TypeError,
        "a.codes have dtype torch.float32: view them as torch.uint8",
    ),
    "bytes of a row": (
        lambda: call(mx(M), mx(N, "e3m2fn", 71)),
        ValueError,
        "b.codes have 71 items a row: 96 columns of 6 bits take 72",
    ),
    "strides": (
        lambda: call(mx(M), replace(mx(N), codes=u8(K, N).T)),
        ValueError,
        "b.codes have strides .*: they must be contiguous",
    ),
    "empty": (lambda: call(replace(mx(M), codes=u8(0, K)), mx(N)), ValueError, "non-empty"),
    "dtype of scales": (
        lambda: call(replace(mx(M), scales=torch.ones(M, 3)), mx(N)),
        TypeError,
        "a.scales have dtype torch.float32: e8m0fnu are torch.uint8",
    ),
    "stored format": (
        lambda: call(replace(mx(M), stored="fp16"), mx(N)),
        ValueError,
        "a.stored 'fp16'",
    ),
    "scale grid": (
        lambda: call(mx(M), replace(mx(N), scales=u8(N, 2))),
        ValueError,
        r"b.scales must have shape \(24, 3\)",
    ),
    "scale block": (
        lambda: call(mx(M), replace(mx(N), block=(1, 48), scales=u8(N, 2))),
        ValueError,
        "folded scales have powers of two",
    ),
    "zero points missing": (
        lambda: call(replace(uint8(M), zero_points=None), uint8(N)),
        ValueError,
        "unsigned integers, and they alone, take zero_points",
    ),
    "zero points along K": (
        lambda: call(
            replace(uint8(M), scales=torch.ones(M, 3), block=(1, 32), zero_points=u8(M, 3)),
            uint8(N),
        ),
        ValueError,
        "do not change along K",
    ),
    "dtype of zero points": (
        lambda: call(uint8(M), replace(uint8(N), zero_points=torch.zeros(N, 1))),
        TypeError,
        "b.zero_points have dtype torch.float32",
    ),
    "second level": (
        lambda: call(replace(uint8(M), tensor_scale=torch.ones(1)), uint8(N)),
        ValueError,
        "a.tensor_scale stands beside folded scales",
    ),
    "shape of the second level": (
        lambda: call(replace(mx(M), tensor_scale=torch.ones(2)), mx(N)),
        ValueError,
        r"a.tensor_scale must have shape \(1,\)",
    ),
    "fp32 blocks in the loop": (
        lambda: call(
            replace(plain(M, "e3m4fn"), scales=torch.ones(M, 3), block=(1, 32)),
            plain(N, "e3m4fn"),
        ),
        ValueError,
        "fp32 scales that change along K need a staged",
    ),
    "K": (
        lambda: call(mx(M), replace(plain(N, "e4m3fn", 97), columns=97)),
        ValueError,
        "a has 96 columns and b 97",
    ),
    "shape of c": (
        lambda: call(mx(M), mx(N), torch.empty(M, N + 1)),
        ValueError,
        "c must be 20 x 24",
    ),
    "dtype of c": (
        lambda: call(mx(M), mx(N), torch.empty(M, N, dtype=torch.float64)),
        TypeError,
        "c has dtype torch.float64",
    ),
    "rows of c": (
        lambda: call(mx(M), mx(N), torch.empty(N, M).T),
        ValueError,
        "c has stride 20 along its columns",
    ),
    "devices": (
        lambda: call(mx(M), mx(N), torch.empty(M, N, device="meta")),
        ValueError,
        "a.codes on cpu, .*c on meta: they must share one device",
    ),
    "no type holds both": (
        lambda: call(
            StoredMatrix(
                codes=torch.zeros(M, K, dtype=torch.float16),
                columns=K,
                element=named_element("fp16"),
            ),
            mx(N),
        ),
        ValueError,
        "no 16-bit float holds both operands",
    ),
    "config field": (
        lambda: call(mx(M), mx(N), config={"block_m": 16}),
        ValueError,
        "config: wrong or missing field",
    ),
    "config value": (
        lambda: call(mx(M), mx(N), config={**CONFIG, "block_k": 48}),
        ValueError,
        "block_k = 48: it must be a power of two",
    ),
    "tma in the loop": (
        lambda: call(mx(M), mx(N), config={**CONFIG, "tma": True}),
        ValueError,
        "tma and persistent belong to staged",
    ),
    "native and staged": (
        lambda: call(mx(M), mx(N), config={**STAGED, "native": True}),
        ValueError,
        "native and staged exclude each other",
    ),
    "native element": (
        lambda: call(mx(M), mx(N, "e3m2fn", 72), config={**CONFIG, "native": True}),
        ValueError,
        "native configurations multiply e4m3fn, e5m2 and e2m1fn",
    ),
    "native depth": (
        lambda: call(mx(M), mx(N), config={**CONFIG, "native": True}),
        ValueError,
        "block_k 32: native configurations take at least 64",
    ),
    "persistent": (
        lambda: call(mx(M), mx(N), config={**STAGED, "persistent": True}, workspace=u8(1 << 20)),
        ValueError,
        "needs num_sms",
    ),
    "whole extent": (
        lambda: call(tall(2**30 + 1), tall(16), META_OUT),
        ValueError,
        "a: 1073741825 rows or columns under one scale",
    ),
    "reach": (
        lambda: call(long_rows(M), long_rows(N), META_OUT, config={**CONFIG, "block_m": 256}),
        ValueError,
        "tile 256x32 of 20x8388616: it spans 2.31 elements or more",
    ),
    "reach of the decoding pass": (
        lambda: call(long_rows(M, 2**28), long_rows(N, 2**28), META_OUT, config=STAGED),
        ValueError,
        "tile 8x512 of 20x268435456: it spans 2.31 elements or more",
    ),
    "no workspace": (
        lambda: call(mx(M), mx(N), config=STAGED),
        ValueError,
        f"need a workspace of {workspace_bytes(STAGED, M, N, K)} bytes",
    ),
    "small workspace": (
        lambda: call(mx(M), mx(N), config=STAGED, workspace=u8(100)),
        ValueError,
        "workspace must be",
    ),
    "dtype of workspace": (
        lambda: call(mx(M), mx(N), config=STAGED, workspace=torch.zeros(1 << 16)),
        TypeError,
        "workspace has dtype",
    ),
    "alignment of workspace": (
        lambda: call(mx(M), mx(N), config=STAGED, workspace=u8(1 << 16)[1:]),
        ValueError,
        "multiple of 16 bytes",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_names_argument_and_rule(name: str) -> None:
    run, error, told = CASES[name]
    with pytest.raises(error, match=told):
        run()


def test_refuses_an_output_over_an_input_or_the_workspace() -> None:
    memory = u8(1 << 16)
    a = replace(mx(M), codes=memory[: M * K].view(M, K))
    c = memory[: M * N * 4].view(torch.float32).view(M, N)
    with pytest.raises(ValueError, match=r"c overlaps a\.codes"):
        call(a, mx(N), c)
    with pytest.raises(ValueError, match=r"workspace overlaps a\.codes"):
        call(a, mx(N), config=STAGED, workspace=memory)
    with pytest.raises(ValueError, match="c overlaps workspace"):
        call(mx(M), mx(N), c, config=STAGED, workspace=memory)
