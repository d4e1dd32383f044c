"""One pass over memory, priced."""

import pytest

import sim
from sim.network.streaming import Streaming, streaming_cost

H200 = sim.load_gpu("h200")
COPY = Streaming(name="copy", read_bytes=2e9, written_bytes=2e9, elements=1e9)


def time_us(work: Streaming) -> float:
    return float(streaming_cost(work, H200).time_us[0])


def test_a_large_copy_runs_at_the_rate_of_copies() -> None:
    # 4e9 bytes at 4274 GB/s; the p-norm with L2 and the ends of a kernel add under 2 %.
    assert time_us(COPY) == pytest.approx(4e9 / 4274 / 1e3, rel=0.02)


def test_reads_alone_run_at_the_rate_of_reads() -> None:
    reading = Streaming(name="sum", read_bytes=4e9, written_bytes=0.0, elements=2e9)
    assert time_us(reading) == pytest.approx(4e9 / H200.dram_read_gb_per_s / 1e3, rel=0.02)


def test_a_small_pass_takes_a_launch_and_a_latency() -> None:
    small = Streaming(name="add", read_bytes=4096, written_bytes=2048, elements=1024)
    ends = H200.dram_latency_ns + 600 / (H200.max_clock_mhz / 1e3)
    assert time_us(small) == pytest.approx(H200.graph_launch_us + ends / 1e3, rel=0.02)


def test_instructions_and_special_functions_bind_when_there_are_many() -> None:
    busy = Streaming(
        name="busy", read_bytes=2e9, written_bytes=2e9, elements=1e9, instructions=300.0
    )
    issue_us = 1e9 * 300 / (132 * H200.issue_per_clk * H200.max_clock_mhz)
    assert time_us(busy) == pytest.approx(issue_us, rel=0.02)
    special = Streaming(
        name="special", read_bytes=2e9, written_bytes=2e9, elements=1e9, special_functions=30.0
    )
    assert time_us(special) == pytest.approx(1e9 * 30 / (132 * 16 * H200.max_clock_mhz), rel=0.02)


@pytest.mark.parametrize(
    "change", [{"read_bytes": -1.0}, {"elements": 0.0}, {"instructions": -1.0}], ids=str
)
def test_negative_counts_are_refused(change: dict[str, float]) -> None:
    fields = {"read_bytes": 1.0, "written_bytes": 1.0, "elements": 1.0}
    with pytest.raises(ValueError, match="wrong: bytes and counts must not be negative"):
        Streaming(name="wrong", **(fields | change))
