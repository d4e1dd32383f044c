"""The microbenchmarks' host code, rehearsed on a device that runs nothing.

What would be launched must fit the device that it is launched on, take the arguments that the
kernel's source declares, and move the bytes and do the work that its sample claims.
"""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDevice, Launch, Memory, fake_cupy

import sim
from tiles.kernels.cuda import modules
from tuning.microbench.catalogue import CATALOGUE
from tuning.microbench.sample import Sample

FOLDER = Path(__file__).parents[2] / "tuning" / "microbench"
#: Cases of a library's products, which need torch and a GPU.
ON_A_GPU = {"power"}
KIB, MIB = 2**10, 2**20


def board(gpu: sim.Gpu, free_bytes: int = 16 * 10**9) -> FakeDevice:
    return FakeDevice(
        capability=str(gpu.capability),
        attributes={
            "MultiProcessorCount": gpu.sm_count,
            "MaxSharedMemoryPerMultiprocessor": gpu.smem_bytes_per_sm,
            "MaxSharedMemoryPerBlockOptin": gpu.smem_bytes_per_cta,
            "L2CacheSize": gpu.l2_driver_bytes,
        },
        free_bytes=free_bytes,
    )


@pytest.fixture
def rehearse(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeDevice], ModuleType]:
    def load(device: FakeDevice) -> ModuleType:
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy(device))
        monkeypatch.delitem(sys.modules, "tuning.microbench.device", raising=False)
        monkeypatch.setattr(modules, "load", device.module)
        loaded = importlib.import_module("tuning.microbench.device")
        monkeypatch.delitem(sys.modules, "tuning.microbench.device")
        return loaded

    return load


def signatures() -> dict[str, list[tuple[str, ...]]]:
    """The parameters' types of every kernel, by name; several files have a ``rate``."""
    found: dict[str, list[tuple[str, ...]]] = {}
    head = r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)'
    for path in FOLDER.glob("*.cu"):
        for name, parameters in re.findall(head, path.read_text()):
            types = [re.sub(r"\w+$", "", one.strip()).strip() for one in parameters.split(",")]
            found.setdefault(name, []).append(tuple(t for t in types if t))
    return found


def fits(argument: Any, declared: str) -> bool:
    plain: dict[str, type] = {"u64": np.uint64, "u32": np.uint32, "int": np.int32}
    if declared.endswith("*"):
        return isinstance(argument, Memory)
    return type(argument) is plain[declared]


@pytest.mark.parametrize("name", ["h200", "rtx3090", "b200"])
def test_every_case_launches_what_the_device_and_the_source_allow(
    name: str, rehearse: Callable[[FakeDevice], ModuleType]
) -> None:
    gpu = sim.load_gpu(name)
    device = board(gpu)
    cuda = rehearse(device)
    declared = signatures()
    launched: set[str] = set()
    for benchmark in CATALOGUE:
        if benchmark.name in ON_A_GPU or benchmark.name == "latency":
            continue
        samples = cuda.run_cases(benchmark.name, benchmark.cases(gpu))
        assert [one.case for one in samples] == benchmark.cases(gpu)
        for one in samples:
            assert one.work > 0
            assert len(one.ns or one.clocks) == cuda.REPEATS
    for one in device.launches:
        types = [t for t in declared[one.name] if len(t) == len(one.arguments)]
        assert any(all(map(fits, one.arguments, t)) for t in types), one
        assert one.smem <= gpu.smem_bytes_per_cta
        if one.smem:  # a second CTA would not find its memory, registers or threads
            assert 2 * one.smem > gpu.smem_bytes_per_sm
        launched.add(one.name)
    assert device.most_allocated <= device.free_bytes
    # Every kernel of the sources but the chase, whose ring takes a second to make.
    assert launched == set(declared) - {"chase"}


def of(device: FakeDevice, kernel: str) -> list[Launch]:
    return [one for one in device.launches if one.name == kernel]


def test_streams_leave_the_l2_behind_however_few_multiprocessors_read(
    rehearse: Callable[[FakeDevice], ModuleType],
) -> None:
    gpu = sim.load_gpu("b200")  # 126 MB of L2
    device = board(gpu)
    cuda = rehearse(device)
    benchmark = next(one for one in CATALOGUE if one.name == "dram_read")
    samples: list[Sample] = cuda.run_cases("dram_read", benchmark.cases(gpu))
    assert {one.case["sms"] for one in samples} >= {9, 148}
    for sample, launch in zip(
        samples, of(device, "read_vectors")[:: cuda.REPEATS + 1], strict=True
    ):
        assert launch.grid == (sample.case["sms"],)
        assert sample.work == 16 * int(launch.arguments[1]) >= 4 * gpu.l2_driver_bytes
        # Whole steps: no thread reads beyond the buffer.
        step = launch.grid[0] * launch.block[0] * cuda.AHEAD
        assert int(launch.arguments[1]) % step == 0
        assert 16 * int(launch.arguments[1]) <= launch.arguments[0].nbytes


def test_a_working_set_is_what_its_label_says(
    rehearse: Callable[[FakeDevice], ModuleType],
) -> None:
    gpu = sim.load_gpu("h200")
    device = board(gpu)
    cuda = rehearse(device)
    benchmark = next(one for one in CATALOGUE if one.name == "l2_read")
    samples: list[Sample] = cuda.run_cases("l2_read", benchmark.cases(gpu))
    assert {int(one.case["bytes"]) // MIB for one in samples} >= {1, 2, 4, 16, 32, 48, 96}
    launches = of(device, "read_shared")[:: 2 * cuda.REPEATS + 1]
    for sample, launch in zip(samples, launches, strict=True):
        source, count, turns = launch.arguments[:3]
        assert 16 * int(count) == source.nbytes == sample.case["bytes"]
        assert int(count) % (launch.block[0] * cuda.AHEAD) == 0
        assert sample.work == float(launch.grid[0]) * int(turns) * source.nbytes
        # Long enough that a launch does not count, short enough for eight minutes.
        assert 4e9 < sample.work < 5e10


def test_a_full_device_is_told_so(rehearse: Callable[[FakeDevice], ModuleType]) -> None:
    gpu = sim.load_gpu("h200")
    cuda = rehearse(board(gpu, free_bytes=200 * MIB))
    with pytest.raises(MemoryError, match=r"0.2 GB of device memory are free and 0.5 are needed"):
        cuda.run_cases("dram_copy", [{"sms": 132, "bytes": 2**31}])
    cuda = rehearse(board(gpu, free_bytes=2 * 10**9))
    (sample,) = cuda.run_cases("dram_copy", [{"sms": 132, "bytes": 2**31}])
    assert 1e9 < sample.work < 1.5e9  # what there is, both buffers together


def test_chases_stay_in_the_l2_or_leave_it(rehearse: Callable[[FakeDevice], ModuleType]) -> None:
    device = board(sim.load_gpu("h200"))
    cuda = rehearse(device)
    warm, cold = cuda.run_cases(
        "latency", [{"level": "l2", "bytes": 4 * MIB}, {"level": "dram", "bytes": 32 * MIB}]
    )
    assert (warm.work, cold.work) == (4 * MIB / 128, 20_000.0)
    assert len(warm.ns) == len(cold.ns) == cuda.REPEATS
    # Warm: every turn but the dropped one finds the ring in the L2.  Cold: none is dropped.
    assert len(of(device, "chase")) == 2 * cuda.REPEATS + cuda.REPEATS


def test_power_is_read_while_products_are_queued(
    rehearse: Callable[[FakeDevice], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings between a launch and the wait for it: an idle GPU would show another clock."""
    launched, waited = 0, 0
    behind: list[int] = []

    class Event:
        def __init__(self, **_: bool) -> None:
            self.after = 0

        def record(self) -> None:
            self.after = launched

        def synchronize(self) -> None:
            nonlocal waited
            waited = max(waited, self.after)

        def elapsed_time(self, end: object) -> float:
            return 2.0  # ms a product: ten are a batch of 20

    def product() -> None:
        nonlocal launched
        launched += 1

    def read() -> SimpleNamespace:
        behind.append(launched - waited)
        return SimpleNamespace(sm_clock_mhz=1500, power_w=690.0)

    torch = SimpleNamespace(cuda=SimpleNamespace(Event=Event, synchronize=lambda: None))
    monkeypatch.setitem(sys.modules, "torch", torch)
    cuda = rehearse(board(sim.load_gpu("h200")))
    monkeypatch.setattr(cuda, "_product", lambda *_: product)
    monkeypatch.setattr(cuda, "open_nvml", lambda: SimpleNamespace(read=read))
    monkeypatch.setattr(cuda, "POWER_S", 0.02)
    (sample,) = cuda.run_cases("power", [{"element": "bf16", "data": "normal", "size": 8192}])
    assert len(sample.mhz) == len(sample.watts) == len(behind) >= 3
    assert set(behind[2:]) == {20}  # two batches ahead of the reading, never none, never more
    monkeypatch.setattr(cuda, "open_nvml", lambda: None)
    with pytest.raises(RuntimeError, match="NVML does not answer: install nvidia-ml-py"):
        cuda.run_cases("power", [{"element": "bf16", "data": "normal", "size": 8192}])
