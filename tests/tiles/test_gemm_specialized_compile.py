"""Specialised warps of the scaled GEMM, compiled for sm_90: both warpgroups' halves of a tile."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

from cross_compile import compile_gemm, registers_and_stack
from gemm_cases import BASE, gemm
from warp_partitions import POINTER, partitions

pytestmark = pytest.mark.slow

M, N, K = 4096, 2048, 4096
#: Place of the output and of the activations' scales among the kernel's parameters.
C, A_SCALE = 2, 3
STRIDES = {"stride_am": K, "stride_bn": K, "stride_cm": N, "stride_as_m": 1, "stride_as_k": M}


@pytest.mark.parametrize(
    ("recipe", "block", "program"),
    [("int8-row", (256, 64, 128), 0), ("deepseek-fp8", (128, 128, 128), 37)],
    ids=["scales behind the loop", "scales in the loop"],
)
def test_each_warpgroup_fetches_scales_and_stores_its_half_of_a_tile(
    recipe: str, block: tuple[int, int, int], program: int
) -> None:
    """What a warpgroup stores once stood half a tile too low: half of the tile stayed unwritten."""
    m, n, k = block
    problem = gemm(f"gemm:{M}x{N}x{K}:{recipe}:bf16")
    config = replace(
        BASE, block_m=m, block_n=n, block_k=k, num_warps=4, num_stages=3, specialize=True
    )
    compiled = compile_gemm(problem, config, 90)
    values = {"m": M, "n": N, "k": K, "stride_bs_n": 1, **STRIDES, "program_id": program}
    fetching, *multiplying = partitions(compiled.asm["ttgir"], values)
    assert len(multiplying) == 2
    stored = []
    for half in multiplying:
        (offsets,) = half.stores
        rows, cols = np.divmod(offsets - C * POINTER, N)
        ((a_buffer, b_buffer),) = half.products
        # Rows and columns begin where the operands were fetched from, and there are as many as fit.
        assert fetching.fetches[a_buffer] == (rows.min(), 0)
        assert fetching.fetches[b_buffer] == (cols.min(), 0)
        assert np.array_equal(np.unique(rows), rows.min() + np.arange(m // 2))
        assert np.array_equal(np.unique(cols), cols.min() + np.arange(n))
        scales = [at - A_SCALE * POINTER for at in half.loads if np.all(at // POINTER == A_SCALE)]
        assert len(scales) == 1
        assert np.array_equal(np.unique(scales[0]), np.unique(rows))
        stored.append(offsets)
    # Together they write every element of one tile, once.
    rows, cols = np.divmod(np.unique(np.concatenate(stored)) - C * POINTER, N)
    assert rows.size == sum(offsets.size for offsets in stored) == m * n
    assert (rows.min() % m, np.ptp(rows)) == (0, m - 1)
    assert (cols.min() % n, np.ptp(cols)) == (0, n - 1)
    # 8 elements an instruction, 128 threads, and code of its own for each half.
    assert compiled.asm["ptx"].count("st.global") == m * n // (8 * 128)
    assert ".reqntid 384" in compiled.asm["ptx"]
    assert registers_and_stack(compiled)[1] == 0
