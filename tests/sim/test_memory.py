"""L2, DRAM and latency terms, each against hand values with their units."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from sim.memory import (
    dram_ns,
    exposed_ns,
    l2_ns,
    load_latency_ns,
    overlap,
    saturation,
    segment_share,
)

H200 = sim.load_gpu("h200")


def test_saturation_meets_public_measurements_of_tma() -> None:
    """HPMLL, H800 PCIe at 1755 MHz: GB/s against KB in flight on each of 114 SMs, top 1810 GB/s."""
    in_flight = np.array([1, 2, 8, 12, 16, 24]) * 1e3 * 114
    measured = np.array([223, 422, 1229, 1510, 1708, 1810])
    predicted = 1810 * saturation(in_flight, 1810, 724 / 1.755)
    assert predicted == pytest.approx(measured, rel=1 / 6)


def test_dram_time_of_gigabytes() -> None:
    plenty = np.array([1e9])
    time = dram_ns(
        H200, read_bytes=np.array([4.15e9]), write_bytes=np.array([0.0]), in_flight_bytes=plenty
    )
    assert time[0] == pytest.approx(1e6)  # 4.15 GB at 4150 GB/s: a millisecond
    time = dram_ns(
        H200, read_bytes=np.array([0.0]), write_bytes=np.array([4.274e9]), in_flight_bytes=plenty
    )
    assert time[0] == pytest.approx(1e6)


def test_few_bytes_in_flight_are_bound_by_latency() -> None:
    """A lone kilobyte comes back after one DRAM latency."""
    time = dram_ns(
        H200,
        read_bytes=np.array([1e3]),
        write_bytes=np.array([0.0]),
        in_flight_bytes=np.array([1e3]),
    )
    assert time[0] == pytest.approx(H200.dram_latency_ns, rel=1e-3)


def test_l2_is_bound_by_the_whole_or_by_one_port() -> None:
    whole = l2_ns(H200, bytes_per_sm=np.array([1e6]), bytes_total=np.array([132e6]), clock_ghz=1.9)
    assert whole[0] == pytest.approx(132e6 / 14000)
    port = l2_ns(H200, bytes_per_sm=np.array([1e6]), bytes_total=np.array([1e6]), clock_ghz=1.5)
    assert port[0] == pytest.approx(1e6 / 64 / 1.5)


def test_latency_mixes_levels_and_adds_the_descriptors_share() -> None:
    latency = load_latency_ns(H200, np.array([0.0, 1.0, 1.0]), np.array([False, False, True]))
    assert latency.tolist() == [141, 340, 400]


def test_exposed_latency_of_a_pipeline() -> None:
    stages = np.array([2.0, 4, 5])
    # A buffer is busy for 900 + 200 ns and comes round every `stages` iterations of 200 ns.
    exposed = exposed_ns(np.array(900.0), np.array(200.0), stages, 0.0)
    assert exposed == pytest.approx([350, 75, 20])
    assert 200 + exposed == pytest.approx(1100 / stages)
    assert exposed_ns(np.array(400.0), np.array(200.0), np.array(3.0), 0.0) == 0
    # A buffer that a product in flight still reads is none to load ahead into.
    assert exposed_ns(np.array(400.0), np.array(200.0), np.array(3.0), 1.0) == 200 / 3


def test_short_rows_waste_l2_requests() -> None:
    share = segment_share(np.array([32.0, 64.0, 128.0, 512.0]), 64.0)
    assert share == pytest.approx([0.5, 0.75, 1, 1])


def test_overlap_is_the_slowest_and_a_little_more() -> None:
    assert overlap(np.array([100.0]), np.array([10.0]))[0] == pytest.approx(100, rel=1e-6)
    assert overlap(np.array([100.0]), np.array([100.0]))[0] == pytest.approx(100 * 2**0.125)


def test_more_bandwidth_helps_at_every_fill() -> None:
    faster = replace(H200, dram_read_gb_per_s=8000, dram_copy_gb_per_s=8000)
    in_flight = np.geomspace(1e2, 1e9, 50)
    slow, fast = (
        dram_ns(g, read_bytes=in_flight, write_bytes=in_flight, in_flight_bytes=in_flight)
        for g in (H200, faster)
    )
    assert (fast <= slow).all()
