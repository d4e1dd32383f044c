"""The microbenchmarks: their cases, and the reduction of samples to figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sim import Gpu
from tuning.microbench.quantity import Duration, Figure, Frequency, figure, gb_per_s, per_clk
from tuning.microbench.sample import Case, Sample

__all__ = ["CATALOGUE", "ELEMENTS", "OPERATIONS", "Microbenchmark"]

#: Elements of ``wgmma.cu`` and ``mma_sync.cu`` by their number there.
ELEMENTS = ("bf16", "fp16", "e4m3fn", "e5m2", "int8")
#: Operations of ``pipes.cu`` by their number there, and what one instruction of a lane counts.
OPERATIONS = {
    "fma": 1,
    "half2_fma": 2,
    "logic": 1,
    "permute": 1,
    "int_to_float": 1,
    "float_to_int": 1,
    "floats_to_bf16": 2,
    "exponential": 1,
}
MIB = 2**20
STREAM_BYTES = 2**31
RATES = "tensor_flop_per_clk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbenchmark:
    """One of them."""

    name: str
    cases: Callable[[Gpu], list[Case]]  #: none: this GPU has nothing of the kind
    reduce: Callable[[Gpu, Sequence[Sample]], list[Figure]]


def _active(gpu: Gpu) -> list[Case]:
    counts = sorted({max(1, gpu.sm_count * part // 16) for part in (1, 2, 4, 8, 12, 16)})
    return [{"sms": count, "bytes": STREAM_BYTES} for count in counts]


def _bandwidth(name: str) -> Callable[[Gpu, Sequence[Sample]], list[Figure]]:
    """GB/s of the best case, and beside it those of every number of multiprocessors."""

    def reduce(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
        found = [
            figure(
                f"{name}@{one.case['sms']}_sms",
                "GB/s",
                [gb_per_s(one.work, Duration(ns)) for ns in one.ns],
            )
            for one in samples
        ]
        best = max(found, key=lambda one: one.value)
        return [Figure(name=name, value=best.value, unit="GB/s", spread=best.spread), *found]

    return reduce


def _working_sets(gpu: Gpu) -> list[Case]:
    whole: list[Case] = [
        {"bytes": size * MIB, "sms": gpu.sm_count}
        for size in (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 192, 256)
        if size * MIB <= 2 * gpu.l2_driver_bytes
    ]
    return [*whole, {"bytes": 2 * MIB, "sms": max(1, gpu.sm_count // 16)}]


def _l2(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    """The rate of small working sets, the one of each size, and the port of a multiprocessor."""
    *whole, few = samples
    found = [
        figure(
            f"l2_read_gb_per_s@{round(float(one.case['bytes']) / MIB)}_mib",
            "GB/s",
            [gb_per_s(one.work, Duration(ns)) for ns in one.ns],
        )
        for one in whole
    ]
    best = max(found, key=lambda one: one.value)
    port = figure(
        "l2_bytes_per_clk_per_sm",
        "B/clk/SM",
        [per_clk(few.work, clocks, int(few.case["sms"])) for clocks in few.clocks],
    )
    return [
        Figure(name="l2_read_gb_per_s", value=best.value, unit="GB/s", spread=best.spread),
        port,
        *found,
    ]


def _latency(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    return [
        figure(str(one.case["level"]) + "_latency_ns", "ns", [ns / one.work for ns in one.ns])
        for one in samples
    ]


def _pipes(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    found = {
        str(one.case["op"]): figure(
            f"{one.case['op']}_per_clk",
            "1/clk/SM",
            [per_clk(one.work, clocks) for clocks in one.clocks],
        )
        for one in samples
    }
    # A permute and a logic instruction share a pipe: the slower one is what unpacking gets.
    integer = min((found["logic"], found["permute"]), key=lambda one: one.value)
    convert = found["int_to_float"]
    return [
        *found.values(),
        Figure(name="int_per_clk", value=integer.value, unit="1/clk/SM", spread=integer.spread),
        Figure(name="convert_per_clk", value=convert.value, unit="1/clk/SM", spread=convert.spread),
    ]


def _elements(gpu: Gpu) -> list[str]:
    return [name for name in ELEMENTS if name in gpu.native_elements]


def _wgmma_cases(gpu: Gpu) -> list[Case]:
    if "wgmma" not in gpu.features:
        return []
    return [{"element": e, "n": n} for e in _elements(gpu) for n in (8, 32, 64, 128, 256)]


def _flop_per_clk(one: Sample) -> Figure:
    label = f"_n{one.case['n']}" if "n" in one.case else ""
    return figure(
        f"{one.case['element']}_flop_per_clk{label}",
        "flop/clk/SM",
        [per_clk(one.work, clocks) for clocks in one.clocks],
    )


def _wgmma(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    """Share of the peak of the best element, every element's rate under that share, the curves."""
    found = [(str(one.case["element"]), _flop_per_clk(one)) for one in samples]
    best: dict[str, Figure] = {}
    for element, one in found:
        if element not in best or one.value > best[element].value:
            best[element] = one
    share = max(one.value / gpu.tensor_flop_per_clk[element] for element, one in best.items())
    # A board may exceed its datasheet's rate only by what the datasheet rounds.
    share = min(1.0, share)
    rates = [
        Figure(
            name=f"{RATES}.{element}",
            value=one.value / share,
            unit="flop/clk/SM",
            spread=one.spread,
        )
        for element, one in best.items()
    ]
    spread = max(one.spread for one in best.values())
    return [
        Figure(name="tensor_share", value=share, unit="1", spread=spread),
        *rates,
        *(one for _, one in found),
    ]


def _mma_cases(gpu: Gpu) -> list[Case]:
    if gpu.vendor != "nvidia":
        return []
    names = _elements(gpu)
    if "wgmma" in gpu.features:  # there 8-bit floats pass mma.sync as fp16
        names = [name for name in names if name not in ("e4m3fn", "e5m2")]
    return [{"element": name} for name in names]


def _mma(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    found = {str(one.case["element"]): _flop_per_clk(one) for one in samples}
    shares = sorted(
        (one.value / gpu.tensor_flop_per_clk[element], one.spread) for element, one in found.items()
    )
    share, spread = shares[len(shares) // 2]
    return [
        Figure(name="mma_sync_share", value=min(1.0, share), unit="1", spread=spread),
        *found.values(),
    ]


def _launch(name: str) -> Callable[[Gpu, Sequence[Sample]], list[Figure]]:
    def reduce(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
        return [
            figure(name, "us", [Duration(ns).us / one.work for ns in one.ns]) for one in samples
        ]

    return reduce


def _store(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    return [
        figure(
            f"store_gb_per_s@{one.case['pitch']}_pitch",
            "GB/s",
            [gb_per_s(one.work, Duration(ns)) for ns in one.ns],
        )
        for one in samples
    ]


def _power(gpu: Gpu, samples: Sequence[Sample]) -> list[Figure]:
    """The clock that dense random products of the first element settle at."""
    clocks: list[Figure] = []
    found: list[Figure] = []
    for one in samples:
        label = f"{one.case['element']}_{one.case['data']}"
        # The first half is the way down from the clock before.
        settled = one.mhz[len(one.mhz) // 2 :]
        clock = figure(f"clock_mhz@{label}", "MHz", [Frequency.of_mhz(m).mhz for m in settled])
        if one.case["data"] == "normal":
            clocks.append(clock)
        found.append(clock)
        if one.watts:
            found.append(figure(f"power_w@{label}", "W", one.watts[len(one.watts) // 2 :]))
    if not clocks:
        raise ValueError("no products of normal data ran: the file's clock stays")
    # The model knows one clock under dense products; 16-bit ones, the usual case, come first.
    clock = clocks[0]
    value = min(clock.value, gpu.max_clock_mhz)
    return [
        Figure(name="sustained_clock_mhz", value=value, unit="MHz", spread=clock.spread),
        *found,
    ]


CATALOGUE: tuple[Microbenchmark, ...] = (
    Microbenchmark(name="graph_launch", cases=lambda gpu: [{}], reduce=_launch("graph_launch_us")),
    Microbenchmark(
        name="stream_launch", cases=lambda gpu: [{}], reduce=_launch("stream_launch_us")
    ),
    Microbenchmark(name="dram_read", cases=_active, reduce=_bandwidth("dram_read_gb_per_s")),
    Microbenchmark(name="dram_write", cases=_active, reduce=_bandwidth("dram_write_gb_per_s")),
    Microbenchmark(name="dram_copy", cases=_active, reduce=_bandwidth("dram_copy_gb_per_s")),
    Microbenchmark(name="l2_read", cases=_working_sets, reduce=_l2),
    Microbenchmark(
        name="latency",
        cases=lambda gpu: [
            {"level": "l2", "bytes": 4 * MIB},
            {"level": "dram", "bytes": 512 * MIB},
        ],
        reduce=_latency,
    ),
    Microbenchmark(
        name="pipes",
        cases=lambda gpu: [{"op": name} for name in OPERATIONS],
        reduce=_pipes,
    ),
    Microbenchmark(name="wgmma", cases=_wgmma_cases, reduce=_wgmma),
    Microbenchmark(name="mma_sync", cases=_mma_cases, reduce=_mma),
    Microbenchmark(
        name="store",
        cases=lambda gpu: [{"pitch": pitch} for pitch in (4096, 8192, 28672)],
        reduce=_store,
    ),
    Microbenchmark(
        name="power",
        cases=lambda gpu: [
            {"element": element, "data": data, "size": 8192}
            for element in _elements(gpu)
            if element in ("bf16", "e4m3fn", "int8")
            for data in ("normal", "zeros")
        ],
        reduce=_power,
    ),
)
