"""The dataflow kernels compiled by NVRTC for sm_90: no spills, wide accesses, few instructions."""

import dataclasses
import re
from pathlib import Path

import pytest
from nvrtc_compile import compile_cuda

from bench.sass import loops, opcodes
from sim import load_gpu
from tiles.kernels import kernel
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows, modules
from tiles.kernels.cuda.dataflow_row_geometry import geometry
from tiles.kernels.dataflow_blocks import BLOCK_OPS, DataflowBlocksConfig
from tiles.kernels.dataflow_rows import ROW_OPS, DataflowRowsConfig
from tiles.problems import DATAFLOW_OPS, parse_problem

H200 = load_gpu("h200").limits
FOLDER = Path(dataflow_blocks.__file__).parent
BLOCK = DataflowBlocksConfig(threads=128, lanes=32, steps=8, ctas=4)
ROW = DataflowRowsConfig(threads=256, lanes=32, rows=32, splits=4, clusters=1, ctas=3)


@pytest.mark.parametrize(
    "op",
    [
        op if op in ("relu", "residual") else pytest.param(op, marks=pytest.mark.slow)
        for op in DATAFLOW_OPS
    ],
)
def test_main_configuration_compiles_without_spills(op: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    problem = parse_problem(f"dataflow:4096x4096:{op}:int8.b32x32+sr")
    family = kernel("cuda_dataflow_blocks" if op in BLOCK_OPS else "cuda_dataflow_rows")
    back = op in ROW_OPS and op.endswith("-bwd")
    row = dataclasses.replace(ROW, ctas=2) if back else ROW
    config = family.default(problem, H200) if op in BLOCK_OPS else row
    facts = family.compile_offline(problem, config, H200)
    assert facts is not None
    assert facts.stack_bytes == 0
    assert facts.registers <= (128 if op in BLOCK_OPS or back else 80)
    assert facts.refusal(H200) == ""


def test_what_was_compiled_ahead_lies_where_the_launch_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    monkeypatch.setenv(modules.BINARIES, str(tmp_path))
    problem = parse_problem("dataflow:4096x4096:residual:int8.b32x32")
    facts = kernel("cuda_dataflow_rows").compile_offline(problem, ROW, H200)
    assert facts is not None
    block, config = (32, 32), ROW.to_dict()
    covered = geometry(op="residual", shape=(4096, 4096), block=block, config=config)
    assert facts.smem_bytes == covered.smem_bytes
    options = dataflow_rows.options(
        op="residual", element="int8", shape=(4096, 4096), block=block, stochastic=False,
        aligned=True, config=config,
    )  # fmt: skip
    code = modules.read_source(FOLDER / dataflow_rows.SOURCE)
    name = modules.binary_name(code, options, "sm_90", facts.compiler)
    assert [made.name for made in tmp_path.glob("*.cubin")] == [name]


def ptx(source: str, options: tuple[str, ...]) -> str:
    found = compile_cuda(FOLDER / source, (*options, "-ftz=true", "-arch=sm_90", "-default-device"))
    assert not found.log
    return found.ptx


@pytest.mark.parametrize(
    ("op", "element"),
    [("relu", "int8"), *(pytest.param(*c, marks=pytest.mark.slow) for c in (
        ("gelu", "int8"), ("silu-bwd", "int8"), ("dropout", "int8"), ("layernorm-apply", "int8"),
        ("gelu", "e4m3fn"),
    ))],
)  # fmt: skip
def test_next_block_is_loaded_before_this_one_is_stored_and_nothing_branches_between(
    op: str, element: str
) -> None:
    """What is behind a branch is not scheduled among what is before it: chains would wait alone."""
    pytest.importorskip("cuda.bindings.nvrtc")
    options = dataflow_blocks.options(
        op=op, element=element, block=(32, 32), stochastic=True, aligned=True,
        config=BLOCK.to_dict(),
    )  # fmt: skip
    source = FOLDER / dataflow_blocks.SOURCE
    made = compile_cuda(source, (*options, "-ftz=true", "-arch=sm_90", "-default-device"))
    (loop,) = [loop for loop in loops(made.machine_code()) if "LDG" in " ".join(loop)]
    vectors = [k for k, code in enumerate(loop) if code.startswith("LDG") and ".128" in code]
    stores = [k for k, code in enumerate(loop) if code.startswith("STG")]
    assert len(stores) == 3  # two vectors and the scale
    # A normalisation's columns are vectors too, loaded when they are needed.
    after = len(loop) - max(vectors[:2] if op.endswith("-apply") else vectors)
    assert after > len(loop) / 5  # of the loop hides each load, and so do other warps
    assert min(stores) > max(vectors)
    assert not [code for code in loop[:-1] if code.startswith(("BRA", "BSSY"))]


@pytest.mark.parametrize(
    ("op", "most"), [("relu", 370), pytest.param("gelu-bwd", 620, marks=pytest.mark.slow)]
)
def test_warp_of_lines_meets_no_barrier_and_does_little_once_a_block(op: str, most: int) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    config = BLOCK.to_dict() | {"steps": 1}
    options = dataflow_blocks.options(
        op=op, element="int8", block=(32, 32), stochastic=True, aligned=True, lines=True,
        narrow=True, config=config,
    )  # fmt: skip
    source = FOLDER / dataflow_blocks.SOURCE
    made = compile_cuda(source, (*options, "-ftz=true", "-arch=sm_90", "-default-device"))
    code = made.machine_code()
    (block,) = loops(code)
    assert len(block) < most  # of 1024 codes
    assert not [one for one in block if one.startswith(("LDG", "STG", "LDGSTS"))]
    assert not [one for one in opcodes(code) if one.startswith("BAR")]


@pytest.mark.parametrize(
    ("op", "element", "block", "stochastic", "aligned"),
    [
        ("gelu", "int8", (32, 32), True, True),
        ("silu-bwd", "e4m3fn", (1, 128), True, True),
        pytest.param("layernorm-apply", "int8", (128, 128), False, True, marks=pytest.mark.slow),
        pytest.param("dropout", "int8", (32, 32), True, False, marks=pytest.mark.slow),
    ],
)
def test_blockwise_kernel_moves_16_bytes_and_draws_one_counter_for_eight(
    op: str, element: str, block: tuple[int, int], stochastic: bool, aligned: bool
) -> None:
    lanes = min(256, block[0] * block[1] // 32)
    config = BLOCK.to_dict() | {"threads": 256, "lanes": lanes}
    text = ptx(
        dataflow_blocks.SOURCE,
        dataflow_blocks.options(
            op=op, element=element, block=block, stochastic=stochastic, aligned=aligned,
            config=config | {"ctas": 1},
        ),
    )  # fmt: skip
    assert bool(re.search(r"ld\.global\.cs\.v4", text)) == aligned
    assert bool(re.search(r"st\.global\.cs\.v4", text)) == aligned
    # 19 wide products of two words a counter of eight elements, 32 elements a thread; the first
    # round has one, and what does not change between neighbouring counters is made once.  Addresses
    # take a few.
    wide = len(re.findall(r"mul\.wide\.u32", text))
    if aligned:
        assert (4 * 17 <= wide <= 4 * 20 + 10) if stochastic else wide < 40
    assert ("e4m3x2" in text) == (element == "e4m3fn")
    assert "cvt.rn.f32.s" not in text or op.startswith("layernorm")  # slow: codes go through bytes


@pytest.mark.parametrize("splits", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_row_kernel_copies_asynchronously_and_meets_in_its_cluster(splits: int) -> None:
    config = ROW.to_dict() | {"splits": splits}
    text = ptx(
        dataflow_rows.SOURCE,
        dataflow_rows.options(
            op="layernorm", element="int8", shape=(4096, 4096), block=(32, 32), stochastic=True,
            aligned=True, config=config,
        ),
    )  # fmt: skip
    assert "cp.async.cg.shared.global" in text
    assert "dp4a.s32" in text
    assert ("barrier.cluster.arrive" in text) == (splits > 1)
    assert ("st.async.shared::cluster" in text) == (splits > 1)


@pytest.mark.parametrize("op", ["layernorm", pytest.param("rmsnorm-bwd", marks=pytest.mark.slow)])
def test_row_kernel_waits_for_no_stores_of_its_cluster_and_keeps_its_cache(op: str) -> None:
    """A release to the cluster would wait for stores to memory, at each row group."""
    pytest.importorskip("cuda.bindings.nvrtc")
    options = dataflow_rows.options(
        op=op, element="int8", shape=(4096, 4096), block=(32, 32), stochastic=True, aligned=True,
        config=ROW.to_dict() | {"ctas": 2},
    )  # fmt: skip
    source = FOLDER / dataflow_rows.SOURCE
    made = compile_cuda(source, (*options, "-ftz=true", "-arch=sm_90", "-default-device"))
    assert not made.log
    code = opcodes(made.machine_code())
    assert not [one for one in code if one.startswith("MEMBAR")]
    sent = len([one for one in code if one.startswith("STAS")])
    assert sent > 0
    assert sent % ROW.splits == 0
    emptied = [one for one in code if one.startswith("CCTL")]
    assert len(emptied) == 1  # before the first part is sent
