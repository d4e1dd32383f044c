"""The cost model's instruction counts of the dataflow kernels, against code compiled now."""

from pathlib import Path

import pytest

import sim
from bench.sass import loops, machine_code, opcodes
from sim.dataflow_instructions import ROW_INSTRUCTIONS, instructions
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.cuda import modules
from tiles.kernels.dataflow_blocks import BLOCK_OPS, DataflowBlocksConfig
from tiles.kernels.dataflow_rows import ROW_OPS, DataflowRowsConfig, row_steps
from tiles.problems import Dataflow, parse_problem

pytestmark = pytest.mark.slow
H200 = sim.load_gpu("h200")
#: Blocks of a tile of lines; elements of a block.
SIDE, BLOCK = 4, 1024


def problem(op: str, fmt: str) -> Dataflow:
    made = parse_problem(f"dataflow:8192x8192:{op}:{fmt}")
    assert isinstance(made, Dataflow)
    return made


def compiled(
    job: Dataflow,
    config: DataflowBlocksConfig | DataflowRowsConfig,
    folder: Path,
    patch: pytest.MonkeyPatch,
) -> str:
    """A configuration's machine code."""
    pytest.importorskip("cuda.bindings.nvrtc")
    patch.setenv(modules.BINARIES, str(folder))
    family = "cuda_dataflow_blocks" if job.op in BLOCK_OPS else "cuda_dataflow_rows"
    assert kernel(family).compile_offline(job, config, H200.limits) is not None
    (binary,) = folder.glob("*.cubin")
    return machine_code(binary.read_bytes())


def number(body: list[str], opcode: str) -> int:
    return sum(one.partition(".")[0] == opcode for one in body)


def around(inner: list[str], others: list[list[str]]) -> list[str]:
    """The shortest of other loops that holds this one."""
    text = " ".join(inner)
    return min((one for one in others if one != inner and text in " ".join(one)), key=len)


def second_pass(found: list[list[str]], lined: bool) -> float:
    """A block of the pass that writes, and a fourth of what is done once a tile of lines."""
    # The only innermost loop that looks for largest values.
    step = min((one for one in found if number(one, "FMNMX") > 16), key=len)
    if not lined:
        return len(step)
    tile = around(step, found)
    assert number(tile, "STG") > number(step, "STG") == 0
    return len(step) + (len(tile) - len(step)) / SIDE


def first_pass(found: list[list[str]], op: str, lanes: int) -> float:
    """A block of the pass that adds up."""
    if op.endswith("-bwd"):
        # Two vectors of each operand an iteration; lanes meet after each.
        bodies = [one for one in found if number(one, "SHFL") == 6 and number(one, "FFMA") >= 64]
        vectors = 2
    else:
        # Of int8 codes sums and squares are dot products, eight a vector; the loop is unrolled.
        bodies = [one for one in found if number(one, "IDP") in (16, 32) and len(one) < 200]
        vectors = number(bodies[0], "IDP") // 8
    return min(map(len, bodies)) * (BLOCK / 16 / lanes) / vectors


@pytest.mark.parametrize("fmt", ["int8.b32x32", "int8.b32x32+sr"])
@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("op", ROW_OPS)
def test_row_kernels_count_as_their_machine_code_does(
    op: str, lanes: int, fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what is done once a row group."""
    threads = 128 if lanes == 32 or op.endswith("-bwd") else 256
    config = DataflowRowsConfig(
        threads=threads, lanes=lanes, rows=32, splits=8, clusters=1 if op == "residual" else 48,
        ctas=3,
    )  # fmt: skip
    job, table = problem(op, fmt), ConfigTable.of([config])
    found = loops(compiled(job, config, tmp_path, monkeypatch), holding_others=True)
    counted = second_pass(found, lined=lanes == 32)
    if op != "residual":
        counted += first_pass(found, op, lanes)
    told = float(instructions(job, table)[0]) * BLOCK / lanes
    once = ROW_INSTRUCTIONS / float(row_steps(job, table)[0])
    assert told - once == pytest.approx(counted, rel=0.07 if fmt.endswith("+sr") else 0.13)


@pytest.mark.parametrize("fmt", ["int8.b32x32", "int8.b32x32+sr"])
@pytest.mark.parametrize("op", BLOCK_OPS)
def test_blockwise_kernels_count_as_their_machine_code_does(
    op: str, fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of warps that move lines, four tiles each."""
    config = DataflowBlocksConfig(threads=128, lanes=32, steps=4, ctas=4)
    job = problem(op, fmt)
    code = compiled(job, config, tmp_path, monkeypatch)
    found = loops(code, holding_others=True)
    # The largest value over a warp's lanes is looked for once a block.
    block, tile = min((one for one in found if number(one, "REDUX")), key=len), max(found, key=len)
    once = (len(opcodes(code)) - len(tile)) / config.steps
    counted = (len(tile) + (SIDE - 1) * len(block) + once) / SIDE
    told = float(instructions(job, ConfigTable.of([config]))[0]) * BLOCK / 32
    assert told == pytest.approx(counted, rel=0.13)
