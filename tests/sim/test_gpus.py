"""The GPUs that come with the workbench: complete, sourced, told apart by their device names."""

import pytest

import sim
from tiles.formats import ELEMENTS

NAMES = [
    "a100",
    "b200",
    "b300",
    "h100",
    "h20",
    "h200",
    "l40s",
    "mi300x",
    "mi355x",
    "rtx3090",
    "rtx4090",
]


def test_names_are_those_of_the_files() -> None:
    assert sim.gpu_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_source(name: str) -> None:
    gpu = sim.load_gpu(name)
    assert gpu.name == name
    assert len(gpu.sources) == 33 + len(gpu.tensor_flop_per_clk)
    assert all(len(source) >= 5 for source in gpu.sources.values())
    assert gpu.native_elements <= set(ELEMENTS)


@pytest.mark.parametrize(
    ("name", "element", "tflops"),
    [
        ("h200", "bf16", 989.5),
        ("h200", "e4m3fn", 1979),
        ("h100", "int8", 1979),
        ("a100", "bf16", 312),
        ("a100", "int8", 624),
        ("a100", "e4m3fn", 0),
        ("l40s", "bf16", 362),
        ("l40s", "e4m3fn", 733),
        ("rtx4090", "fp16", 165.2),
        ("rtx4090", "int8", 660.6),
        ("b200", "bf16", 2250),
        ("b200", "e5m2", 4500),
        ("b200", "e2m3fn", 4500),
        ("b200", "e2m1fn", 9000),
        ("b300", "bf16", 2250),
        ("b300", "e4m3fn", 4500),
        ("b300", "e2m1fn", 13_500),
        ("b300", "int8", 150),  # 30 times slower than 8-bit floats
        ("h20", "bf16", 148),
        ("h20", "e4m3fn", 296),
        ("h20", "int8", 296),
        ("rtx3090", "bf16", 71),
        ("rtx3090", "int8", 284),
        ("rtx3090", "e4m3fn", 0),
        ("mi355x", "bf16", 2500),
        ("mi355x", "e4m3fn", 5000),
        ("mi355x", "int8", 5000),
        ("mi355x", "e2m1fn", 10_100),
        ("mi355x", "e3m2fn", 10_100),
        ("mi300x", "bf16", 1307),
        ("mi300x", "e4m3fn", 0),  # its 8-bit floats are of another kind
    ],
)
def test_rates_give_the_datasheet_peak(name: str, element: str, tflops: float) -> None:
    gpu = sim.load_gpu(name)
    rate = gpu.tensor_flop_per_clk.get(element, 0.0)
    peak = rate * gpu.sm_count * gpu.datasheet_clock_mhz / 1e6
    assert peak == pytest.approx(tflops, rel=0.015)


def test_h200_keeps_both_cache_sizes() -> None:
    gpu = sim.load_gpu("h200")
    assert (gpu.l2_bytes, gpu.l2_driver_bytes) == (50_000_000, 60 * 2**20)
    assert gpu.dram_copy_gb_per_s == 4274


def test_limits_carry_what_legality_needs() -> None:
    limits = sim.load_gpu("h200").limits
    assert limits.smem_bytes_per_cta == 232_448
    assert limits.capability == 90
    assert {"tma", "wgmma"} <= limits.features
    assert "tma" not in sim.load_gpu("a100").limits.features


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA B200", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("AMD Instinct MI355X", "mi355x"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H20-3e", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_device_name_means_one_gpu_or_none(device: str, name: str | None) -> None:
    matching = [n for n in NAMES if sim.load_gpu(n).matches(device)]
    assert matching == ([name] if name else [])


def test_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ValueError, match=r"unknown gpu 'h2000'.*did you mean 'h200'.*a100, b200"):
        sim.load_gpu("h2000")


def test_special_functions_are_16_a_clock_unless_a_file_says_otherwise() -> None:
    rates = {name: sim.load_gpu(name).special_per_clk for name in NAMES}
    assert rates.pop("b300") == 32
    assert set(rates.values()) == {16}


def test_one_board_has_measured_figures() -> None:
    assert [name for name in NAMES if sim.load_gpu(name).measured] == ["h200"]
