"""The launcher of Hopper's product of aligned MX operands: refusals, and both its launches."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from cupy_arrays import array
from hopper_aligned_cases import config
from recorded_launches import check_refuses, record

from tiles.kernels.cuda import (
    align_mx_scales,
    gemm_hopper,
    gemm_hopper_aligned,
    hopper_grid,
    launches,
)

M, N, K = 300, 128, 272
BYTES = gemm_hopper_aligned.workspace_bytes(M, N, K)
GOOD: dict[str, Any] = {
    "a": array((M, K), "uint8"),
    "b": array((N, K), "uint8"),
    "c": array((M, N), "uint16"),
    "a_scale": array((M, 9), "uint8"),
    "b_scale": array((N, 9), "uint8"),
    "workspace": array((BYTES,), "uint8"),
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "mx",
    "config": config().to_dict(),
}
IN_C = GOOD["c"].data.ptr


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"element": "int8"}, ValueError, "element 'int8': choose one of e4m3fn, e5m2"),
        ({"scales": "b1x128"}, ValueError, "scales 'b1x128': choose one of mx"),
        ({"a_scale": array((M, 9), "float32")}, TypeError, "a_scale has dtype float32"),
        ({"b_scale": array((N, 8), "uint8")}, ValueError, r"b_scale has shape \(128, 8\)"),
        ({"workspace": None}, TypeError, "workspace is NoneType"),
        ({"workspace": array((BYTES,), "int8")}, TypeError, "workspace has dtype int8"),
        ({"workspace": array((BYTES - 1,), "uint8")}, ValueError, f"contiguous, of {BYTES} bytes"),
        ({"workspace": array((BYTES, 1), "uint8")}, ValueError, "one-dimensional"),
        (
            {"workspace": array((BYTES,), "uint8", pointer=(1 << 50) + 8)},
            ValueError,
            "at a multiple of 16",
        ),
        ({"workspace": array((BYTES,), "uint8", pointer=IN_C)}, ValueError, "overlaps"),
        ({"workspace": array((BYTES,), "uint8", device=1)}, ValueError, "must share one device"),
        ({"config": {"block_m": 128}}, ValueError, r"config has fields \['block_m'\]"),
        ({"config": config(block_n=96).to_dict()}, ValueError, "block_n = 96"),
    ],
)
def test_launch_refuses_before_it_needs_a_gpu(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    if "config" in change:
        with pytest.raises(error, match=message):
            gemm_hopper_aligned.options(
                **{name: GOOD[name] for name in ("element", "out", "scales")}, **change
            )
        return
    check_refuses(monkeypatch, gemm_hopper_aligned, GOOD | change, error, message)


def test_what_compiles_ahead_is_what_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[Any, ...]] = []

    def made(*key: Any) -> Any:
        compiled.append(key)
        return (None,)

    monkeypatch.setattr(gemm_hopper_aligned, "functions", made)
    monkeypatch.setattr(align_mx_scales, "functions", made)
    monkeypatch.setattr(gemm_hopper, "compiled_kernel", lambda *key: made(*key)[0])
    monkeypatch.setattr(gemm_hopper, "tensor_map", lambda *numbers: "map")
    monkeypatch.setattr(launches, "launch_dependent", lambda *given: None)
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    gemm_hopper_aligned.precompile(**GOOD)
    ahead, compiled[:] = list(compiled), []
    gemm_hopper_aligned.launch(**GOOD)
    assert compiled == ahead
    assert len(ahead) == 2


def test_both_launches_meet_in_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    found = record(monkeypatch, gemm_hopper)
    monkeypatch.setattr(align_mx_scales, "functions", lambda *key: (None,))
    monkeypatch.setattr(hopper_grid, "multiprocessors", lambda device: 132)
    work = array((BYTES,), "uint8", pointer=1 << 40)
    given = GOOD | {"workspace": work, "a": array((M, K), "uint8", strides=(512, 1))}
    gemm_hopper_aligned.launch(**given)
    (align_grid, align_block, (held,), _), (grid, block, arguments, smem) = found.launches
    assert (align_grid, align_block) == (10 + 4, 256)
    a, b = held["a"], held["b"]
    assert (int(a["pitch"]), int(b["pitch"]), int(a["rows"]), int(b["rows"])) == (512, K, M, N)
    assert (int(held["k"]), int(held["a_ctas"])) == (K, 10)
    assert int(a["codes"]) == given["a"].data.ptr
    assert int(b["scales"]) == GOOD["b_scale"].data.ptr
    # Parts follow each other and do not overlap.
    places = [int(x) for x in (a["out"], a["out_scales"], b["out"], b["out_scales"])]
    sizes = [M * K, 3 * 4 * 300, N * K, 3 * 4 * 128]
    ends = [place + size for place, size in zip(places, sizes, strict=True)]
    assert all(end <= place for end, place in zip(ends, places[1:], strict=False))
    assert places[0] == 1 << 40
    assert ends[3] <= (1 << 40) + BYTES
    assert found.maps == [
        (places[0], 1, K, M, K, (128, 256)),
        (places[2], 1, K, N, K, (128, 128)),
        (places[1], 4, M, 3, 1200, (256, 1)),
        (places[3], 4, N, 3, 512, (128, 1)),
        (IN_C, 2, N, M, 2 * N, (64, 64)),
    ]
    assert (grid, block) == (2, 384)
    assert arguments[:4] == ("map 1", "map 2", "map 3", "map 5")
    assert arguments[-1] == "map 4"
    assert [int(x) for x in arguments[6:9]] == [M, N, K]
    assert smem == gemm_hopper_aligned.smem_bytes(scales="mx", config=GOOD["config"])


def test_the_workspace_grows_with_both_operands() -> None:
    sizes = [gemm_hopper_aligned.workspace_bytes(*shape) for shape in
             ((1, 1, 16), (4096, 4096, 4096), (4097, 4096, 4096))]  # fmt: skip
    assert sizes[0] >= 2 * 16 + 2 * 16
    codes, scales = 2 * 4096 * 4096, 2 * 4096 * 32 * 4
    assert codes + scales <= sizes[1] <= codes + scales + 4 * 256
    assert sizes[2] > sizes[1]
    assert all(size % 256 == 0 for size in sizes)


def test_a_launch_that_counts_more_ctas_than_there_are_is_refused() -> None:
    side = align_mx_scales.Side(0, 0, 0, 0, 16, 16, 4, 2**30)
    assert align_mx_scales.parameters([side, side], 16)[0] == 2**26
    with pytest.raises(ValueError, match="CTAs align the operands"):
        align_mx_scales.parameters([side._replace(rows=2**35), side], 2**15)
