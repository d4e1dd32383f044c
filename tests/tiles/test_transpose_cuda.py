"""The CUDA C++ transposition: space, rules, refusals, what NVRTC makes of it, memory banks."""

import dataclasses
import itertools
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvrtc_compile import compile_cuda

from sim import load_gpu, price
from tiles.kernels import Accepted, Rejected, kernel
from tiles.kernels.cuda import transpose_codes
from tiles.kernels.cuda_transpose import CudaTransposeConfig
from tiles.problems import parse_problem

H200 = load_gpu("h200").limits
PROBLEM = parse_problem("transpose:8192x8192:int8")
GOOD = {"block_rows": 128, "block_cols": 128, "num_warps": 8}
SOURCE = Path(transpose_codes.__file__).with_name(transpose_codes.SOURCE)


@pytest.mark.parametrize(
    "text", ["8192x8192:int8", "1x1:e5m2", "130x77:e4m3fn", "262144x4096:int8"]
)
def test_default_is_legal_and_every_legal_configuration_compiles_and_is_priced(text: str) -> None:
    problem, chosen = parse_problem(f"transpose:{text}"), kernel("cuda_transpose")
    assert isinstance(chosen.judge(problem, chosen.default(problem, H200), H200), Accepted)
    space = chosen.legal_space(problem, H200)
    assert len(space.accepted) > 10
    for config in space.accepted:
        assert transpose_codes.options(problem.shape, aligned=False, config=config.to_dict())
    priced = price(problem, chosen, space.accepted, load_gpu("h200"))
    assert np.isfinite(priced.time_us).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_rows": 96}, "block_rows 96"),
        ({"block_cols": 16}, "at least 32"),
        ({"num_warps": 64}, "2048 threads > 1024"),
        ({"num_warps": 16}, "32 codes a thread"),
        ({"num_warps": 1}, "512 codes a thread"),
        ({"block_rows": 512, "num_warps": 16}, "bytes: at most 49152"),
    ],
)
def test_rules_name_what_does_not_fit(change: dict[str, int], reason: str) -> None:
    verdict = kernel("cuda_transpose").judge(PROBLEM, CudaTransposeConfig(**(GOOD | change)), H200)
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason


def test_refusals_say_why() -> None:
    family = kernel("cuda_transpose")
    amd = dataclasses.replace(H200, gpu="mi300x", vendor="amd", capability=942)
    old = dataclasses.replace(H200, gpu="v100", capability=70)
    quantize = parse_problem("quantize:64x64:int8.row:bf16")
    assert "not an NVIDIA GPU" in (family.refusal(PROBLEM, amd) or "")
    assert "capability 80" in (family.refusal(PROBLEM, old) or "")
    assert "serves transpose problems" in (family.refusal(quantize, H200) or "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_rows": 48}, "block_rows = 48"),
        ({"num_warps": 16}, "num_warps = 16: .* 64 codes a thread"),
        ({"block_rows": 1024}, "at most 49152 are turned"),
        ({"stages": 2}, "config has fields"),
    ],
)
def test_options_refuse(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transpose_codes.options((64, 64), aligned=True, config=GOOD | change)


ADDRESSES = itertools.count(1 << 30, 1 << 30)


def array(shape: tuple[int, ...], dtype: str = "int8", pointer: int | None = None) -> Any:
    """What the launcher looks at in a CuPy array, in memory of its own."""
    return SimpleNamespace(
        shape=shape,
        ndim=len(shape),
        size=int(np.prod(shape)),
        dtype=np.dtype(dtype),
        strides=np.empty(shape, dtype).strides,
        flags=SimpleNamespace(c_contiguous=True),
        data=SimpleNamespace(ptr=next(ADDRESSES) if pointer is None else pointer),
        device=0,
    )


@pytest.mark.parametrize(
    ("codes", "out", "error", "message"),
    [
        (array((64, 32)), array((64, 32)), ValueError, r"out has shape \(64, 32\)"),
        (array((64, 32)), array((32, 64), "uint8"), TypeError, "out has dtype uint8"),
        (array((64, 32), "int16"), array((32, 64)), TypeError, "codes has dtype int16"),
        (
            array((64, 32), pointer=4096),
            array((32, 64), pointer=4096),
            ValueError,
            "out overlaps codes",
        ),
    ],
)
def test_launch_refuses(codes: Any, out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        transpose_codes.prepare(codes, out, config=GOOD)


@pytest.mark.parametrize(
    ("shape", "pointer", "aligned", "even"),
    [
        ((256, 128), 1 << 40, 1, 1),
        ((144, 128), 1 << 40, 1, 0),
        ((256, 120), 1 << 40, 0, 0),
        ((250, 128), 1 << 40, 0, 0),
        ((256, 128), (1 << 40) + 8, 0, 0),
    ],
)
def test_chunks_and_whole_tiles_are_taken_where_they_fit(
    shape: tuple[int, int], pointer: int, aligned: int, even: int
) -> None:
    chosen, *_ = transpose_codes.prepare(
        array(shape, pointer=pointer), array(shape[::-1]), config=GOOD
    )
    assert f"-DALIGNED={aligned}" in chosen
    assert f"-DEVEN={even}" in chosen


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_compiles_without_warnings(architecture: str, aligned: bool) -> None:
    options = transpose_codes.options((8192, 8192), aligned=aligned, config=GOOD)
    found = compile_cuda(SOURCE, (*options, f"--gpu-architecture={architecture}"))
    assert not found.log
    if aligned:
        assert re.search(r"ld\.global[.\w]*\.v4", found.ptx)
        assert re.search(r"st\.global[.\w]*\.v4", found.ptx)
        assert (
            len(re.findall(r"prmt\.b32", found.ptx)) == 32
        )  # two a word: half an instruction a code


def banks_of_writes(rows: int, cols: int, patch_cols: int, word: int) -> list[int]:
    """Banks that a warp writes a word of its patches to, by the formulas of the sources."""
    side = min(cols // patch_cols, 8)
    below = 32 // side
    skew = below // 4
    banks = []
    for lane in range(32):
        row, col = lane // side * 4, lane % side * patch_cols + word
        address = col * rows + col // patch_cols * 16 * skew + row
        banks.append(address // 4 % 32)
    return banks


@pytest.mark.parametrize("patch_cols", [4, 8, 16])
@pytest.mark.parametrize("cols", [32, 64, 128, 256])
@pytest.mark.parametrize("rows", [32, 64, 128])
def test_a_warp_writes_to_all_banks_once(rows: int, cols: int, patch_cols: int) -> None:
    side = min(cols // patch_cols, 8)
    if 32 // side * 4 > rows:  # the warp goes on beside
        return
    for word in range(patch_cols):
        assert sorted(banks_of_writes(rows, cols, patch_cols, word)) == list(range(32))
