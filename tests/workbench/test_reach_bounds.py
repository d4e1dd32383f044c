"""Bounds of the table: the arithmetic, the instructions that are counted, the streams that run."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from bench import executed, sass
from bench.bounds import Executed, issue_bound, promotion_bound
from bench.executed import Launch, read_listing
from bench.pipe_rates import CHAINS, STREAMS, UNROLL, Rate, Stream, compile_stream
from bench.sass import histogram, loops, machine_code
from tiles.problems import Gemm, parse_problem


def rate(stream: str, per_us: float) -> Rate:
    return Rate(stream=stream, unit="", per_us=per_us)


#: An SM of 64 conversions, 128 FMAs and instructions, 4096 multiply-adds a clock, one clock a us.
RATES = [
    rate("issue slots", 128.0),
    rate("FFMA", 128.0),
    rate("conversion", 64.0),
    rate("products, 2 x 64x128", 4096.0),
    rate("products and promotion, 2 x 64x128", 9e9),  # not a pipe's rate
]


def square(name: str, k: int = 4096) -> Gemm:
    problem = parse_problem(f"gemm:64x64x{k}:{name}:bf16")
    assert isinstance(problem, Gemm)
    return problem


@pytest.mark.parametrize(
    ("name", "conversion", "clk", "how"),
    [
        # One conversion and one FMA: two issue slots, or one conversion, an accumulator and block.
        ("jetfire", 64.0, 4096 * 128 / 64, "conversion and FMA; conversion bind"),
        ("jetfire-64", 64.0, 4096 * 64 / 64, "conversion and FMA; conversion bind"),
        # With faster conversions both come to two issue slots, 1/64 clock.
        ("jetfire", 100.0, 4096 * 128 / 64, "conversion and FMA; issue slots bind"),
        # With slow ones the magic start is better: three issue slots.
        ("jetfire", 16.0, 4096 * 128 * 3 / 128, "magic start, .*; issue slots bind"),
        # Blocks of 128 leave the tensor cores as the limit.
        ("jetfire-128", 64.0, 64 * 64 * 4096 / 4096, "tensor cores bind"),
    ],
)
def test_the_promotions_bound_is_that_of_its_slowest_pipe(
    name: str, conversion: float, clk: float, how: str
) -> None:
    rates = [*RATES[:2], rate("conversion", conversion), *RATES[3:]]
    bound = promotion_bound(square(name), rates)
    assert bound.time_us == pytest.approx(clk)
    assert bound.how.endswith(how) or how.split(", .*")[0] in bound.how
    assert bound.how.endswith(how.rpartition("; ")[2])


def test_a_ragged_block_is_promoted_like_a_whole_one() -> None:
    whole, ragged = (promotion_bound(square("jetfire", k), RATES) for k in (64, 33))
    assert whole.time_us == ragged.time_us


@pytest.mark.parametrize("missing", ["conversion", "FFMA", "products"])
def test_a_rate_that_is_missing_leaves_no_bound(missing: str) -> None:
    rates = [one for one in RATES if not one.stream.startswith(missing)]
    refused = Rate(stream="x", unit="", refused="wgmma needs capability 9.0")
    bound = promotion_bound(square("jetfire"), [*rates, refused])
    assert bound.time_us is None
    assert bound.refused == f"no rate of {missing}: wgmma needs capability 9.0"


def test_issue_slots_are_those_that_were_counted() -> None:
    counted = Executed(problem="p", warp_instructions=1000)
    bound = issue_bound(counted, RATES)
    assert bound.time_us == 1000 * 32 / 128
    assert bound.how == "1000 instructions of warps at 4 a us"
    assert issue_bound(counted, []).refused == "no rate of issue slots"
    assert issue_bound(None, RATES).refused == "instructions: not counted"
    refused = Executed(problem="p", refused="ncu is missing")
    assert issue_bound(refused, RATES).refused == "instructions: ncu is missing"


def test_the_rate_of_issue_is_the_best_that_any_stream_reached() -> None:
    slow = [rate("issue slots", 100.0), rate("FFMA", 120.0), rate("conversion", 60.0)]
    counted = Executed(problem="p", warp_instructions=1000)
    assert issue_bound(counted, slow).time_us == 1000 * 32 / 120
    # Two instructions each, and three.
    assert issue_bound(counted, [*slow, rate("promotion", 63.0)]).time_us == 1000 * 32 / 126
    assert issue_bound(counted, [*slow, rate("magic promotion", 42.0)]).time_us == 1000 * 32 / 126
    # Multiply-adds of the tensor cores are no instructions of threads.
    assert issue_bound(counted, [*slow, rate("products, 1 x 1", 4096.0)]).time_us == 1000 * 32 / 120


HEADER = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",'
    '"Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
)


def listing(*kernels: tuple[str, str]) -> str:
    rows = [
        f'"{i}","7","python3","127.0.0.1","{name}","1","7","(1, 1, 1)","(1, 1, 1)","0","9.0",'
        f'"Command line profiler metrics","smsp__inst_executed.sum","inst","{value}"'
        for i, (name, value) in enumerate(kernels)
    ]
    return "\n".join(["==PROF== Connected to process 7", HEADER, *rows])


MARK = ("tile_workbench_mark()", "8")


def test_counts_fall_into_launches_by_their_marks() -> None:
    text = listing(MARK, ("rows(long)", "1,048,576"), ("sums", "32"), MARK, ("blocks", "77"))
    text += "\n==PROF== Disconnected from process 7"
    assert read_listing(text, 2) == [1_048_608, 77]
    with pytest.raises(ValueError, match="ncu lists 2 launches, 3 were made"):
        read_listing(text, 3)


def test_what_the_profiler_says_instead_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\n"
    with pytest.raises(ValueError, match="ncu lists no kernel: ==ERROR== ERR_NVGPUCTRPERM"):
        read_listing(said, 1)
    with pytest.raises(ValueError, match="it says nothing"):
        read_listing("", 1)
    launch = Launch(problem="p", kernel="triton_transpose", config={})
    monkeypatch.setattr(executed.shutil, "which", lambda tool: None)
    assert executed.count([launch], time_limit_s=1)["p"].refused.startswith("ncu is missing")

    def slow(*_: object, **given: float) -> None:
        raise subprocess.TimeoutExpired("ncu", given["time_limit_s"])

    monkeypatch.setattr(executed.shutil, "which", lambda tool: f"/{tool}")
    monkeypatch.setattr(executed, "run_profiled", slow)
    assert executed.count([launch], time_limit_s=9)["p"].refused == "ncu took longer than 9 s"
    assert executed.count([], time_limit_s=9) == {}


def test_the_profilers_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def ran(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("--log-file") + 1]).write_text(listing(MARK, ("gelu", "64")))
        assert command[command.index("--metrics") + 1] == executed.METRIC
        assert "p" in Path(command[-1]).read_text()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(executed.shutil, "which", lambda tool: f"/{tool}")
    monkeypatch.setattr(executed, "run_profiled", ran)
    launch = Launch(problem="p", kernel="cuda_dataflow_blocks", config={"warps": 4})
    assert executed.count([launch], time_limit_s=9)["p"].warp_instructions == 64


#: Of one link of a chain, by stream; the loop's own three instructions aside.
LINKS = {
    "issue slots": {"FFMA": 1, "LOP3": 1},
    "FFMA": {"FFMA": 1},
    "conversion": {"I2FP": 1},
    "magic conversion": {"IADD3": 1, "FADD": 1},
    "promotion": {"I2FP": 1, "FFMA": 1},
    "magic promotion": {"IADD3": 1, "FADD": 1, "FFMA": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stream", [*STREAMS[4:10:2], *STREAMS[10:]], ids=lambda stream: stream.name
)
def test_streams_are_made_of_what_they_count(stream: Stream) -> None:
    body = max(loops(machine_code(compile_stream(stream))), key=len)
    counts = Counter(opcode.partition(".")[0].replace("VIADD", "IADD3") for opcode in body)
    assert "STL" not in counts, "spills are measured instead"
    if stream.name.startswith("products by mma.sync"):
        # Two products of 2 x 8 pieces a pass, each of four sums a thread.
        assert (counts["IMMA"], counts["FFMA"]) == (32, (stream.number == 9) * 128)
        assert len(body) - counts["IMMA"] - counts["FFMA"] <= 5
        return
    if not stream.wgmma_n:
        links = LINKS[stream.name]
        assert {name: counts[name] for name in links} == {
            name: count * CHAINS * UNROLL for name, count in links.items()
        }
        assert len(body) - CHAINS * UNROLL * sum(links.values()) <= 3
        return
    promoted = stream.number == 7
    # 64 x N accumulators in 128 threads, two products a pass.
    assert (counts["IGMMA"], counts["I2FP"]) == (2, promoted * stream.wgmma_n)
    assert counts["I2FP"] == counts["FFMA"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["triton_transpose", "gemm:8x8x8:bf16:bf16"], "triton_transpose serves transpose"),
        (["triton_transpose", "transpose:64x64:int8", "--config", "{}"], "missing field"),
        (["triton_transpose", "transpose:64x64:int8", "--config", "{"], "Expecting property"),
        (["nosuch", "transpose:64x64:int8"], "unknown kernel 'nosuch'"),
    ],
)
def test_machine_code_is_that_of_a_legal_question(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        sass.main(given)
    assert said in capsys.readouterr().err


def test_loops_end_where_they_jump_back() -> None:
    code = """
.L_x_0:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   I2FP.F32.S32 R2, R2 ;
        /*0020*/                   FFMA R2, R2, R3, R4 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0050*/                   BRA `(.L_x_2);
"""
    (inner,) = loops(code)
    assert inner == ["I2FP.F32.S32", "FFMA", "BRA"]
    outer = ["MOV", *inner, "BRA"]
    assert loops(code, holding_others=True) == [inner, outer]
    assert histogram(inner) == "3 instructions: 1 I2FP, 1 FFMA, 1 BRA"
