"""Which figures a GPU file has, and within which bounds."""

from typing import Any

from sim.gpu import Gpu
from tiles.intake import nearest, shown

__all__ = [
    "DEFAULTS",
    "FIGURES",
    "ORDERED",
    "PEAKS",
    "TENSOR_RATE",
    "Range",
    "check_figure",
    "check_peak",
    "check_range",
]

#: Lowest, highest, whether it is a whole number.
Range = tuple[float, float, bool]

#: Wide enough for any accelerator of this decade.
FIGURES: dict[str, Range] = {
    "sm_count": (1, 4096, True),
    "max_clock_mhz": (100, 10_000, False),
    "datasheet_clock_mhz": (100, 10_000, False),
    "sustained_clock_mhz": (100, 10_000, False),
    "tdp_w": (1, 20_000, False),
    "tensor_share": (0.01, 1, False),
    "mma_sync_share": (0.01, 1, False),
    "smem_bytes_per_sm": (1024, 2**24, True),
    "smem_bytes_per_cta": (1024, 2**24, True),
    "smem_bytes_per_clk": (1, 65_536, False),
    "registers_per_sm": (1024, 2**24, True),
    "registers_per_thread": (16, 4096, True),
    "threads_per_sm": (32, 65_536, True),
    "ctas_per_sm": (1, 1024, True),
    "warp_threads": (1, 128, True),
    "l2_bytes": (2**16, 2**36, True),
    "l2_driver_bytes": (2**16, 2**36, True),
    "l2_read_gb_per_s": (1, 10**6, False),
    "l2_bytes_per_clk_per_sm": (1, 65_536, False),
    "dram_gb_per_s": (1, 10**6, False),
    "dram_read_gb_per_s": (1, 10**6, False),
    "dram_copy_gb_per_s": (1, 10**6, False),
    "smem_latency_ns": (0, 10_000, False),
    "l2_latency_ns": (1, 100_000, False),
    "dram_latency_ns": (1, 100_000, False),
    "tma_extra_latency_ns": (0, 100_000, False),
    "stream_launch_us": (0, 10_000, False),
    "graph_launch_us": (0, 10_000, False),
    "issue_per_clk": (1, 65_536, False),
    "fma_per_clk": (1, 65_536, False),
    "int_per_clk": (1, 65_536, False),
    "convert_per_clk": (1, 65_536, False),
    "special_per_clk": (1, 65_536, False),
}
#: Figures that a file may leave out: NVIDIA from 7.5 to 10.0 and AMD's CDNA have them alike.
DEFAULTS: dict[str, dict[str, Any]] = {
    "issue_per_clk": {
        "value": 128,
        "source": "nominal: four schedulers issue an instruction of 32 lanes a clock each",
    },
    "special_per_clk": {
        "value": 16,
        "source": "CUDA C++ programming guide, arithmetic throughput: 16 special functions a clock",
    },
}
TENSOR_RATE: Range = (1, 10**7, False)
#: Pairs of figures of which the first may not exceed the second.
ORDERED = (
    ("sustained_clock_mhz", "max_clock_mhz"),
    ("dram_read_gb_per_s", "dram_gb_per_s"),
    ("dram_copy_gb_per_s", "dram_gb_per_s"),
    ("smem_bytes_per_cta", "smem_bytes_per_sm"),
    ("l2_latency_ns", "dram_latency_ns"),
)
#: Of them those that a measurement finds and the highest that there can be.
PEAKS = dict(ORDERED[:3])


def check_figure(key: str, value: object) -> None:
    """Refuse what no GPU's figure can be, or a rate of its tensor cores.

    Args:
        key: of a GPU file's ``figures``, or ``tensor_flop_per_clk``.
    Raises:
        ValueError: unknown, no number, or out of range; one line.
    """
    rules = FIGURES | {"tensor_flop_per_clk": TENSOR_RATE}
    if key not in rules:
        raise ValueError(f"unknown figure {shown(key)}: {nearest(key, rules)}choose one")
    check_range(key, value, rules[key])


def check_range(key: str, value: object, within: Range) -> None:
    """Refuse what is no number of a range.

    Raises:
        ValueError: one line that begins with the key.
    """
    low, high, _ = within
    # math.isnan would overflow on a very long integer, and integers of any length compare exactly.
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{key} must be a number, got {shown(value)}: correct it")
    if not low <= value <= high:
        raise ValueError(f"{key} = {shown(value)} must lie in {low:g}..{high:g}: check its unit")


def check_peak(gpu: Gpu, key: str, value: float) -> None:
    """Refuse a measured figure beyond the peak that the GPU file states for it.

    Raises:
        ValueError: it is higher; one line.
    """
    if key in PEAKS and value > getattr(gpu, PEAKS[key]):
        raise ValueError(
            f"{key} = {shown(value)} must not exceed {PEAKS[key]}, {getattr(gpu, PEAKS[key]):g}"
        )
