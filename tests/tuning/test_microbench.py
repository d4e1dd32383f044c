"""Microbenchmarks without a GPU: units, reductions, failures, the record, the simulated machine."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import sim
from sim.calibration.file import MEASURABLE
from tiles.kernels import Status
from tuning.microbench.catalogue import CATALOGUE, OPERATIONS
from tuning.microbench.outcome import Outcome, reduced, used_figures
from tuning.microbench.quantity import Duration, Frequency, figure, gb_per_s, per_clk
from tuning.microbench.run import RECORD, run_microbenchmarks
from tuning.microbench.sample import Case, Sample
from tuning.microbench.simulated import simulated_samples
from tuning.worker import Worker

H200 = sim.load_gpu("h200")
#: A board with every figure off its file's.
TRUE = replace(
    H200,
    sustained_clock_mhz=1420.0,
    tensor_share=0.93,
    mma_sync_share=0.58,
    dram_read_gb_per_s=4050.0,
    dram_copy_gb_per_s=4400.0,
    l2_read_gb_per_s=11_000.0,
    l2_bytes_per_clk_per_sm=58.0,
    l2_latency_ns=150.0,
    dram_latency_ns=390.0,
    stream_launch_us=2.9,
    graph_launch_us=1.1,
    int_per_clk=60.0,
    convert_per_clk=62.0,
)
BENCHMARKS = {one.name: one for one in CATALOGUE}


def simulate(gpu: sim.Gpu, true: sim.Gpu) -> list[Outcome]:
    return [
        reduced(one, gpu, [simulated_samples(one.name, case, true, 0) for case in one.cases(gpu)])
        for one in CATALOGUE
        if one.cases(gpu)
    ]


def test_a_clock_in_khz_is_not_taken_for_mhz() -> None:
    assert Frequency.of_khz(1_980_000).mhz == Frequency.of_mhz(1980).mhz == 1980.0
    with pytest.raises(ValueError, match="check whether it was given in kHz or MHz"):
        Frequency.of_mhz(1_980_000)
    with pytest.raises(ValueError, match=r"a clock of 1.98e\+06 Hz lies outside"):
        Frequency.of_khz(1980)
    sample = Sample(case={"element": "bf16", "data": "normal"}, work=1.0, mhz=(1_400_000.0,) * 4)
    outcome = reduced(BENCHMARKS["power"], H200, [sample])
    assert outcome.status is Status.CORRECTNESS
    assert "kHz or MHz" in outcome.reason


def test_rates_from_hand_counts() -> None:
    assert gb_per_s(4e9, Duration.of_ms(1.0)) == 4000.0  # 4 GB in a millisecond
    assert Duration.of_us(2.0).ns == 2000.0
    assert Duration.of_ms(0.5).us == 500.0
    assert per_clk(1024 * 8 * 16, 1024.0) == 128.0
    assert per_clk(6400.0, 10.0, sms=10) == 64.0
    with pytest.raises(ValueError, match="the kernel did not run"):
        per_clk(1.0, 0.0)
    with pytest.raises(ValueError, match="must be positive"):
        Duration.of_ms(0.0)
    found = figure("x", "GB/s", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.spread) == (3.0, pytest.approx(2 / 3))
    with pytest.raises(ValueError, match="not all positive: measure again"):
        figure("x", "GB/s", [1.0, float("nan")])


@pytest.mark.parametrize(
    ("name", "case", "sample", "expected"),
    [
        (
            "graph_launch",
            {},
            {"work": 500.0, "ns": (670_000.0,)},
            ("graph_launch_us", 1.34),
        ),
        (
            "dram_read",
            {"sms": 132, "bytes": 2**31},
            {"work": 4e9, "ns": (1e6,)},
            ("dram_read_gb_per_s", 4000.0),
        ),
        (
            "latency",
            {"level": "dram"},
            {"work": 1000.0, "ns": (340_000.0,)},
            ("dram_latency_ns", 340.0),
        ),
        (
            "wgmma",
            {"element": "bf16", "n": 256},
            {"work": 2.0 * 128 * 256 * 16 * 4, "clocks": (1100.0,)},
            ("tensor_share", 2.0 * 128 * 256 * 16 * 4 / 1100 / 4096),
        ),
        (
            "mma_sync",
            {"element": "int8"},
            {"work": 4096.0 * 500, "clocks": (1000.0,)},
            ("mma_sync_share", 0.25),
        ),
    ],
)
def test_a_reduction_by_hand(
    name: str, case: Case, sample: dict[str, object], expected: tuple[str, float]
) -> None:
    found = BENCHMARKS[name].reduce(H200, [Sample(case=case, **sample)])  # type: ignore[arg-type]
    figures = {one.name: one.value for one in found}
    assert figures[expected[0]] == pytest.approx(expected[1])


def test_known_figures_are_found_again() -> None:
    outcomes = simulate(H200, TRUE)
    assert [one.status for one in outcomes] == [Status.CORRECT] * len(CATALOGUE)
    found = used_figures(outcomes, H200)
    for name in (
        *("sustained_clock_mhz", "tensor_share", "mma_sync_share", "dram_read_gb_per_s"),
        *("dram_copy_gb_per_s", "l2_read_gb_per_s", "l2_bytes_per_clk_per_sm", "l2_latency_ns"),
        *("dram_latency_ns", "stream_launch_us", "graph_launch_us", "fma_per_clk"),
        *("int_per_clk", "convert_per_clk"),
    ):
        assert found[name].value == pytest.approx(getattr(TRUE, name), rel=0.02), name
        assert 0.01 <= found[name].spread < 0.05
    for element, rate in TRUE.tensor_flop_per_clk.items():
        assert found[f"tensor_flop_per_clk.{element}"].value == pytest.approx(rate, rel=0.02)
    # Curves and pipes without a figure are kept for information, and do not stand in for any.
    kept = {one.name for outcome in outcomes for one in outcome.figures}
    assert {"bf16_flop_per_clk_n8", "exponential_per_clk", "dram_read_gb_per_s@132_sms"} <= kept
    assert "exponential_per_clk" not in found
    # And what stands in is read back from a calibration file.
    assert {name for name in found if not name.startswith("tensor_flop_per_clk.")} <= MEASURABLE


def test_every_pipe_has_a_case_and_gpus_without_wgmma_none_of_it() -> None:
    assert len(BENCHMARKS["pipes"].cases(H200)) == len(OPERATIONS)
    a100 = sim.load_gpu("a100")
    assert BENCHMARKS["wgmma"].cases(a100) == []
    assert {c["element"] for c in BENCHMARKS["mma_sync"].cases(a100)} == {"bf16", "fp16", "int8"}
    assert {c["element"] for c in BENCHMARKS["mma_sync"].cases(H200)} == {"bf16", "fp16", "int8"}


def test_what_no_such_gpu_can_be_is_not_used() -> None:
    benchmark = BENCHMARKS["dram_copy"]
    slow = replace(TRUE, dram_copy_gb_per_s=1000.0)
    samples = [simulated_samples("dram_copy", case, slow, 0) for case in benchmark.cases(H200)]
    outcome = reduced(benchmark, H200, samples)
    assert outcome.status is Status.CORRECTNESS
    assert outcome.reason.startswith("dram_copy_gb_per_s = ")
    assert "times the GPU file's 4274: not used" in outcome.reason
    assert used_figures([outcome], H200) == {}


def test_no_memory_is_measured_faster_than_its_datasheet() -> None:
    """A third above the GPU file's is no outlier, and yet no H200: 4.8 TB/s are its pins'."""
    fast = replace(TRUE, dram_copy_gb_per_s=5500.0)
    benchmark = BENCHMARKS["dram_copy"]
    samples = [simulated_samples("dram_copy", case, fast, 0) for case in benchmark.cases(H200)]
    outcome = reduced(benchmark, H200, samples)
    assert outcome.status is Status.CORRECTNESS
    assert outcome.reason.endswith("must not exceed dram_gb_per_s, 4800")


def test_a_failure_is_recorded_and_tried_again_and_the_rest_is_not(tmp_path: Path) -> None:
    asked: list[str] = []
    broken = {"latency"}

    def runner(name: str, cases: list[Case]) -> list[Sample] | tuple[Status, str]:
        asked.append(name)
        if name in broken:
            return Status.TIMEOUT, "a microbenchmark took longer than 60 s"
        return [simulated_samples(name, case, TRUE, 0) for case in cases]

    first, left = run_microbenchmarks(tmp_path, H200, "here", runner, seconds=60)
    failed = {one.name: one.reason for one in first if one.status is not Status.CORRECT}
    assert failed == {"latency": "a microbenchmark took longer than 60 s"}
    assert left == []
    assert "l2_latency_ns" not in used_figures(first, H200)
    assert json.loads((tmp_path / RECORD).read_text())["where"] == "here"
    asked.clear()
    broken.clear()
    again, _ = run_microbenchmarks(tmp_path, H200, "here", runner, seconds=60)
    assert asked == ["latency"]
    assert [one.status for one in again] == [Status.CORRECT] * len(first)
    assert [one for one in again if one.name != "latency"] == [
        one for one in first if one.name != "latency"
    ]
    asked.clear()
    run_microbenchmarks(tmp_path, H200, "elsewhere", runner, seconds=60)
    assert len(asked) == len(first)


def test_samples_of_other_benchmarks_or_another_gpu_file_are_taken_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def runner(name: str, cases: list[Case]) -> list[Sample]:
        asked.append(name)
        return [simulated_samples(name, case, TRUE, 0) for case in cases]

    run_microbenchmarks(tmp_path, H200, "here", runner, seconds=60)
    asked.clear()
    edited = replace(H200, text=H200.text + "# a figure was corrected\n")
    run_microbenchmarks(tmp_path, edited, "here", runner, seconds=60)
    assert asked == [one.name for one in CATALOGUE]
    asked.clear()
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps({**record, "sources": "of last week"}))
    run_microbenchmarks(tmp_path, edited, "here", runner, seconds=60)
    assert asked == [one.name for one in CATALOGUE]


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    done, left = run_microbenchmarks(
        tmp_path, H200, "here", lambda *_: pytest.fail("begun too late"), seconds=0.0
    )
    assert done == []
    assert left == [one.name for one in CATALOGUE]


def test_a_fault_in_the_measuring_process_is_an_answer() -> None:
    with Worker("cpu") as worker:
        answer = worker.microbenchmark("no such thing", [{"how": "stream"}])
        pid = worker.pid
        assert worker.microbenchmark("no such thing", []) is not None
        assert worker.pid == pid  # it lives on
    assert isinstance(answer, tuple)
    assert answer[0] is Status.RUNTIME
    assert answer[1]  # CuPy is missing, or there is no such microbenchmark
