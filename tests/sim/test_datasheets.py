"""GPU files beside what the vendors' datasheets say, typed in here from the datasheets."""

import pytest

import sim

#: GPU to multiprocessors, dense TFLOP/s of bf16, of 8-bit floats, TOP/s of int8, GB/s, watts.
DATASHEETS: dict[str, tuple[int, float, float | None, float | None, float, float]] = {
    "a100": (108, 312.0, None, 624.0, 2039, 400),
    "h100": (132, 989.5, 1979.0, 1979.0, 3350, 700),
    "h200": (132, 989.5, 1979.0, 1979.0, 4800, 700),
    "h20": (78, 148.0, 296.0, 296.0, 4000, 400),
    "l40s": (142, 362.05, 733.0, 733.0, 864, 350),
    "rtx4090": (128, 165.2, 330.3, 660.6, 1008, 450),
    "rtx3090": (82, 71.0, None, 284.0, 936, 350),
    "b200": (148, 2250.0, 4500.0, 4500.0, 8000, 1000),
    "b300": (148, 2250.0, 4500.0, 150.0, 8000, 1100),
    "mi300x": (304, 1307.4, None, 2614.9, 5300, 750),
    "mi355x": (256, 2516.6, 5033.2, 5033.2, 8000, 1400),
}
#: Dense PFLOP/s of four-bit floats under block scales.
FOUR_BITS = {"b200": 9.0, "b300": 13.5, "mi355x": 10.07}


def peak(gpu: sim.Gpu, element: str) -> float:
    """TFLOP/s at the clock of the datasheet's peaks."""
    rate = gpu.tensor_flop_per_clk[element]
    return rate * gpu.sm_count * gpu.datasheet_clock_mhz * 1e6 / 1e12


@pytest.mark.parametrize("name", sim.gpu_names())
def test_a_file_has_the_datasheets_figures(name: str) -> None:
    gpu = sim.load_gpu(name)
    sms, bf16, fp8, int8, bandwidth, watts = DATASHEETS[name]
    assert gpu.sm_count == sms
    assert gpu.dram_gb_per_s == bandwidth
    assert gpu.tdp_w == watts
    for element, said in (("bf16", bf16), ("fp16", bf16), ("e4m3fn", fp8), ("int8", int8)):
        if said is None:
            assert element not in gpu.native_elements
        else:
            # Rates are round numbers a clock; a datasheet rounds its clock or its peak.
            assert peak(gpu, element) == pytest.approx(said, rel=0.02), element
    if name in FOUR_BITS:
        assert peak(gpu, "e2m1fn") == pytest.approx(1e3 * FOUR_BITS[name], rel=0.02)
    else:
        assert "e2m1fn" not in gpu.native_elements


def test_boards_of_one_chip_have_its_figures() -> None:
    h100, h200 = sim.load_gpu("h100"), sim.load_gpu("h200")
    for name in ("l2_read_gb_per_s", "l2_latency_ns", "smem_bytes_per_clk", "max_clock_mhz"):
        assert getattr(h100, name) == getattr(h200, name), name
    # The H20 has fewer of the same multiprocessors.
    h20 = sim.load_gpu("h20")
    scaled = h200.l2_read_gb_per_s * h20.sm_count / h200.sm_count
    assert h20.l2_read_gb_per_s == pytest.approx(scaled, rel=0.02)


@pytest.mark.parametrize("name", ["b200", "b300", "h20"])
def test_an_l2_scaled_from_an_h200_is_scaled_from_todays(name: str) -> None:
    """Blackwell's was scaled from an older figure, and stood below an H200's."""
    h200, gpu = sim.load_gpu("h200"), sim.load_gpu(name)
    assert gpu.sources["l2_read_gb_per_s"].startswith("unverified: an H200's, scaled by")
    of = h200.l2_read_gb_per_s / (h200.sm_count * h200.max_clock_mhz)
    expected = of * gpu.sm_count * gpu.max_clock_mhz
    assert gpu.l2_read_gb_per_s == pytest.approx(expected, rel=3e-3)
