"""Spaces, rules, defaults and refusals of the dataflow families."""

import dataclasses

import numpy as np
import pytest
from config_rows import distinct_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import gpu_names, load_gpu
from tiles.formats import TensorFormat
from tiles.kernels import Accepted, Rejected, kernel, kernels
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows, philox_keys
from tiles.kernels.cuda.dataflow_row_geometry import geometry
from tiles.kernels.dataflow_blocks import BLOCK_OPS, DataflowBlocksConfig
from tiles.kernels.dataflow_rows import ROW_OPS, DataflowRowsConfig
from tiles.problems import DATAFLOW_OPS, Dataflow, parse_problem

H200 = load_gpu("h200").limits
A100 = load_gpu("a100").limits
#: Of a GPU with no more than any kernel has without asking.
SMALL = dataclasses.replace(H200, smem_bytes_per_cta=48 * 1024)
BLOCKS, ROWS = "cuda_dataflow_blocks", "cuda_dataflow_rows"
FORMATS = ("int8.b32x32", "int8.b32x32+sr", "e4m3fn.b1x128+sr", "int8.b128x128", "int8.b1x16")


def problem(op: str, fmt: str = "int8.b32x32", rows: int = 4096, cols: int = 4096) -> Dataflow:
    return Dataflow(rows=rows, cols=cols, op=op, target=TensorFormat.parse(fmt))


def test_every_operator_is_served_by_one_family() -> None:
    assert sorted((*BLOCK_OPS, *ROW_OPS)) == sorted(DATAFLOW_OPS)
    assert (dataflow_blocks.OPS, dataflow_rows.OPS) == (BLOCK_OPS, ROW_OPS)
    for op in DATAFLOW_OPS:
        serving = [k.name for k in kernels().values() if not k.refusal(problem(op), H200)]
        assert serving == [BLOCKS if op in BLOCK_OPS else ROWS]


@pytest.mark.parametrize("op", DATAFLOW_OPS)
def test_problem_text_reads_back_and_counts_bytes(op: str) -> None:
    one = parse_problem(f"dataflow:64x96:{op}:int8.b32x32+sr")
    assert parse_problem(str(one)) == one
    assert isinstance(one, Dataflow)
    codes, scales = 64 * 96, 4 * 2 * 3
    assert one.min_bytes >= (one.matrices + 1) * (codes + scales)
    assert one.with_tokens(128).shape == (128, 96)


def test_problem_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="operator 'tanh': choose one of gelu"):
        parse_problem("dataflow:64x64:tanh:int8.b32x32")
    with pytest.raises(ValueError, match="has no scaling"):
        parse_problem("dataflow:64x64:gelu:bf16")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(sorted(DATAFLOW_OPS)),
    fmt=st.sampled_from(FORMATS),
    rows=st.integers(1, 300) | st.sampled_from([4096, 65536]),
    cols=st.integers(1, 300) | st.sampled_from([1024, 4096, 7168, 16384]),
    gpu=st.sampled_from(gpu_names()),
)
def test_default_is_legal_and_the_space_says_why_not(
    op: str, fmt: str, rows: int, cols: int, gpu: str
) -> None:
    limits, one = load_gpu(gpu).limits, problem(op, fmt, rows, cols)
    family = kernel(BLOCKS if op in BLOCK_OPS else ROWS)
    if reason := family.refusal(one, limits):
        assert "\n" not in reason
        assert limits.vendor != "nvidia" or limits.capability < 90 or cols > 4096
        return
    verdict = family.judge(one, family.default(one, limits), limits)
    assert isinstance(verdict, Accepted), verdict
    space = family.legal_space(one, limits)
    assert len(space.accepted) > 0
    assert distinct_rows(space.table) == len(space.table) <= 3000
    for refused in list(space.rejected)[::50]:
        assert refused.rule
        assert "\n" not in refused.reason


BLOCK = DataflowBlocksConfig(threads=256, lanes=32, steps=4, ctas=2)
ROW = DataflowRowsConfig(threads=256, lanes=32, rows=32, splits=4, clusters=1, ctas=2)


@pytest.mark.parametrize(
    ("config", "change", "op", "limits", "reason"),
    [
        (BLOCK, {"threads": 96}, "gelu", H200, "96 threads"),
        (BLOCK, {"lanes": 24}, "gelu", H200, "24 lanes"),
        (BLOCK, {"lanes": 8}, "gelu", H200, "8 vectors of a block a thread > 4"),
        (BLOCK, {"ctas": 9}, "gelu", H200, "9 CTAs of 256 threads"),
        (BLOCK, {"ctas": 5}, "gelu", H200, "80 registers a thread > 48"),
        (BLOCK, {"ctas": 5}, "relu", H200, "56 registers a thread > 48"),
        (BLOCK, {"lanes": 16, "ctas": 3}, "gelu", H200, "128 registers a thread > 80"),
        (BLOCK, {"ctas": 4}, "silu-bwd", H200, "80 registers a thread > 64"),
        (BLOCK, {"steps": 0}, "gelu", H200, "steps 0"),
        (BLOCK, {"threads": 512, "lanes": 16, "ctas": 1}, "gelu", SMALL, "smem 66048 B > 49152 B"),
        (ROW, {"rows": 48}, "residual", H200, "48 rows"),
        (ROW, {"splits": 3}, "residual", H200, "splits 3"),
        (ROW, {}, "residual", A100, "splits 4"),
        (ROW, {"clusters": 64}, "residual", H200, "clusters 64"),
        (ROW, {"clusters": 0}, "layernorm", H200, "clusters 0"),
        (ROW, {"splits": 1}, "layernorm-bwd", H200, "smem"),
        (ROW, {"threads": 128, "splits": 1}, "layernorm-bwd", H200, "words of 4 columns"),
    ],
)
def test_rules_name_rule_and_values(config, change, op, limits, reason) -> None:  # type: ignore[no-untyped-def]
    family = kernel(BLOCKS if config is BLOCK else ROWS)
    verdict = family.judge(problem(op), dataclasses.replace(config, **change), limits)
    assert isinstance(verdict, Rejected)
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("family", "text", "limits", "reason"),
    [
        (BLOCKS, "gemm:64x64x64:bf16:bf16", H200, "serves dataflow problems"),
        (BLOCKS, "dataflow:64x64:residual:int8.b32x32", H200, "not residual"),
        (ROWS, "dataflow:64x64:gelu:int8.b32x32", H200, "not gelu"),
        (BLOCKS, "dataflow:64x64:gelu:e5m2.b32x32", H200, "not e5m2"),
        (BLOCKS, "dataflow:64x64:gelu:int8.b32x32+fp16", H200, "fp32 absmax scales"),
        (BLOCKS, "dataflow:64x64:gelu:e4m3fn.b32x32+nosat", H200, "saturates"),
        (BLOCKS, "dataflow:64x64:gelu:int8.row", H200, "takes block scalings, not row"),
        (BLOCKS, "dataflow:64x64:gelu:int8.b32x48", H200, "powers of two"),
        (BLOCKS, "dataflow:64x64:gelu:int8.b256x256", H200, "too large"),
        (BLOCKS, "dataflow:64x64:gelu:e4m3fn.b1x128", A100, "needs capability 89"),
        (ROWS, "dataflow:64x262144:layernorm-bwd:int8.b32x32", H200, "cannot hold rows of 262144"),
        (ROWS, "dataflow:64x1024:layernorm-bwd:int8.b1x256", H200, "blocks of 128 columns at most"),
    ],
)
def test_refusal_says_why(family, text, limits, reason) -> None:  # type: ignore[no-untyped-def]
    assert reason in (kernel(family).refusal(parse_problem(text), limits) or "")


def test_ragged_columns_take_fewer_threads_a_multiprocessor() -> None:
    """Codes one by one and random bits of each: with 96 registers a thread they spill."""
    for op, even, ragged in (("gelu", 5, 4), ("dropout", 4, 2), ("silu-bwd", 4, 2)):
        found = [
            kernel(BLOCKS).default(problem(op, cols=cols), H200).to_dict()["ctas"]
            for cols in (4096, 4090)
        ]
        assert found == [even, ragged]


def test_lanes_that_share_a_row_of_a_block_are_those_of_a_warp() -> None:
    one = problem("residual", "int8.b1x1024", 64, 4096)
    config = dataclasses.replace(ROW, lanes=64, rows=4)
    verdict = kernel(ROWS).judge(one, config, H200)
    assert isinstance(verdict, Rejected)
    assert "64 lanes share a row of a block: 32 at most" in verdict.reason


@pytest.mark.parametrize("fmt", ["int8.b32x32", "int8.b1x128", "int8.b64x64", "int8.b1x1024"])
def test_shared_memory_of_blocks_is_what_the_launcher_asks_for(fmt: str) -> None:
    from tiles.kernels.dataflow_blocks import block_smem_bytes
    from tiles.kernels.dataflow_family import block_of

    for op in ("gelu", "silu-bwd", "relu", "dropout"):
        one = problem(op, fmt)
        legal = kernel(BLOCKS).legal_space(one, H200).accepted
        asked = [
            dataflow_blocks.smem_bytes(
                op,
                block_of(one),
                fields := legal.config(row).to_dict(),
                lines=dataflow_blocks.lined(one.shape, block_of(one), fields),
            )
            for row in range(len(legal))
        ]
        assert block_smem_bytes(one, legal).tolist() == asked


def test_shared_memory_of_the_rules_is_what_the_launcher_asks_for() -> None:
    from tiles.kernels.dataflow_rows import row_smem_bytes

    for op in ROW_OPS:
        one = problem(op, cols=5000)
        legal = kernel(ROWS).legal_space(one, H200).accepted
        rows = np.arange(0, len(legal), 17)
        asked = [
            geometry(
                op=op, shape=one.shape, block=(32, 32), config=legal.config(int(r)).to_dict()
            ).smem_bytes
            for r in rows
        ]
        assert row_smem_bytes(one, legal)[rows].tolist() == asked


def test_keys_are_those_of_narrow_counters_up_to_two_to_the_35_elements() -> None:
    for rows, keys in ((2**18, philox_keys.narrow_keys), (2**18 + 1, philox_keys.round_keys)):
        assert (philox_keys.matrix_keys(7, (rows, 2**17)) == keys(7)).all()
    assert (philox_keys.narrow_keys(7) != philox_keys.round_keys(7)).any()
