"""The timing rule on a real GPU."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tiles.kernels import Status, kernel
from tiles.problems import parse_problem
from tuning.timer import operand_sets
from tuning.timing import time_callable, time_interleaved
from tuning.worker import Target, Worker

pytestmark = pytest.mark.gpu


def matmul_launchers(
    m: int, n: int, k: int
) -> tuple[Callable[[int], list[Callable[[], None]]], int]:
    """torch.matmul on bf16: launchers and the bytes of one operand set."""
    import torch

    def launchers(sets: int) -> list[Callable[[], None]]:
        launches: list[Callable[[], None]] = []
        for _ in range(sets):
            a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            b = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
            c = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
            launches.append(partial(torch.matmul, a, b.T, out=c))
        return launches

    return launchers, 2 * (m * k + n * k + m * n)


def l2_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).L2_cache_size)


@pytest.mark.alone
def test_large_matmul_runs_at_the_known_rate() -> None:
    import torch

    launchers, size = matmul_launchers(4096, 4096, 4096)
    timing = time_callable(launchers, set_bytes=size, l2_bytes=l2_bytes())
    assert timing.timing == "events-cold"
    tflops = 2 * 4096**3 / timing.time_us / 1e6
    print(f"{torch.cuda.get_device_name()}: {tflops:.0f} TFLOP/s, {timing.time_us:.1f} us")
    if torch.cuda.get_device_name().startswith(("NVIDIA H100", "NVIDIA H200")):
        assert 500 < tflops < 850


@pytest.mark.alone
def test_two_timings_agree() -> None:
    launchers, size = matmul_launchers(4096, 4096, 4096)
    first, second = time_interleaved([(launchers, size)] * 2, l2_bytes=l2_bytes())
    assert first.time_us == pytest.approx(second.time_us, rel=0.03)


@pytest.mark.alone
def test_cold_differs_from_warm_on_a_small_shape() -> None:
    launchers, size = matmul_launchers(16, 4096, 4096)  # 34 MB of weights: they fit the L2
    cold = time_callable(launchers, set_bytes=size, l2_bytes=l2_bytes())
    warm = time_callable(launchers, set_bytes=size, l2_bytes=l2_bytes(), cache="warm")
    assert (cold.timing, warm.timing) == ("graph-rotate", "graph-warm")
    assert cold.time_us > 1.1 * warm.time_us
    assert len(cold.samples_us) >= 20


def test_graph_rotates_through_every_operand_set() -> None:
    import torch

    counters: list[torch.Tensor] = []

    def launchers(sets: int) -> list[Callable[[], None]]:
        counters[:] = [torch.zeros(2**18, device="cuda") for _ in range(sets)]
        return [partial(counter.add_, 1.0) for counter in counters]

    timing = time_callable(launchers, set_bytes=2**20, l2_bytes=l2_bytes())
    assert timing.timing == "graph-rotate"
    assert len(counters) == operand_sets(2**20, l2_bytes())
    counts = [int(counter[0].item()) for counter in counters]
    assert min(counts) >= 20
    assert max(counts) - min(counts) <= 1  # the warm-up launch of the first


@pytest.mark.alone
def test_a_short_kernels_time_is_not_the_hosts() -> None:
    import torch

    buffers: list[torch.Tensor] = []

    def launchers(sets: int) -> list[Callable[[], None]]:
        buffers[:] = [torch.zeros(1024, device="cuda") for _ in range(sets)]
        return [partial(buffer.add_, 1.0) for buffer in buffers]

    timing = time_callable(launchers, set_bytes=4096, l2_bytes=l2_bytes())
    assert timing.timing.startswith("graph-rotate")
    assert 0.3 < timing.time_us < 6


@pytest.mark.alone
def test_worker_measures_a_triton_product() -> None:
    text = "gemm:1024x1024x1024:bf16:bf16"
    family = kernel("triton_gemm")
    with Worker("cuda") as worker:
        environment, driver_l2 = worker.hello()
        target = Target(
            problem=text,
            kernel="triton_gemm",
            device="cuda",
            seed=0,
            cache="cold",
            l2_bytes=driver_l2,
        )
        import sim

        named = [n for n in sim.gpu_names() if sim.load_gpu(n).matches(environment.gpu)]
        limits = sim.load_gpu(named[0] if named else "h200").limits
        config = family.default(parse_problem(text), limits)
        outcome, read = worker.measure(target, config, environment=True)
        assert outcome.status is Status.CORRECT, outcome.reason
        assert outcome.time_us is not None
        assert outcome.time_us < 1000
        assert read is not None
        assert read.driver not in ("none", "unknown")
        assert read.sm_clock_mhz is None or read.sm_clock_mhz > 500
        timings = worker.compare(target, [config, config])
        assert timings is not None
        assert timings[0].time_us == pytest.approx(timings[1].time_us, rel=0.05)
        assert worker.compile(target, config).status is None


def test_a_sticky_fault_restarts_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faulty_kernel.py").write_text(_FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", os.environ.get("CUDA_LAUNCH_BLOCKING", "0"))
    from faulty_kernel import FaultyConfig  # type: ignore[import-not-found]  # written above

    target = Target(
        problem="gemm:64x64x64:bf16:bf16",
        kernel="faulty_kernel:Faulty",
        device="cuda",
        seed=0,
        cache="cold",
        l2_bytes=l2_bytes(),
    )
    with Worker("cuda") as worker:
        bad, _ = worker.measure(target, FaultyConfig(bad=True))
        assert bad.status is Status.RUNTIME, bad
        good, _ = worker.measure(target, FaultyConfig(bad=False))
        assert good.status is Status.CORRECT, good.reason
        assert worker.starts == 2


_FAULTY = """
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tiles.kernels import *


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyConfig(TileConfig):
    bad: bool


class FaultyWorkload(Workload):
    def __init__(self, problem):
        self.problem, self.device = problem, "cuda"

    def launchers(self, config, sets):
        import torch
        return [partial(torch.zeros(64, device="cuda").add_, 1.0) for _ in range(sets)]

    def check(self, config):
        import torch
        x = torch.arange(4, device="cuda")
        if config.bad:
            x[torch.tensor([99], device="cuda")].sum().item()  # a device-side assertion
        return Accuracy(ok=True, max_error_over_bound=0.0, relative_rms=0.0)

    def compile(self, config):
        return None

    @property
    def set_bytes(self):
        return 256


class Faulty(Kernel):
    name, backend, config_type = "faulty", Backend.TRITON, FaultyConfig

    def refusal(self, problem, limits):
        return None

    def path(self, problem, limits):
        return NumericPath.NATIVE

    def space(self, problem, limits):
        return ConfigTable.product(FaultyConfig, bad=[False, True])

    def rules(self, problem, table, limits):
        return []

    def default(self, problem, limits):
        return FaultyConfig(bad=False)

    @property
    def template(self):
        return Path(__file__)

    def workload(self, problem, *, device, seed):
        return FaultyWorkload(problem)
"""


@pytest.mark.alone
def test_a_slow_host_is_not_charged_to_a_short_kernel() -> None:
    import time

    import torch

    def launchers(sets: int) -> list[Callable[[], None]]:
        x = torch.randn(1 << 16, device="cuda")
        y = torch.empty_like(x)

        def launch() -> None:
            time.sleep(0.002)
            torch.add(x, 1.0, out=y)

        return [launch] * sets

    timing = time_callable(launchers, set_bytes=2**19, l2_bytes=l2_bytes())
    assert timing.timing.startswith("graph")
    assert timing.time_us < 20


def test_a_timer_keeps_the_operands_of_its_graph_alive() -> None:
    import gc
    import weakref

    import torch

    from tuning.timer import open_timer

    for elements in (1 << 10, 1 << 28):  # one graph of many launches, and single launches
        x = torch.zeros(elements, device="cuda")
        alive = weakref.ref(x)
        timer = open_timer(
            lambda sets, x=x: [partial(x.add_, 1.0)] * sets,
            set_bytes=4 * elements,
            l2_bytes=l2_bytes(),
            device="cuda",
        )
        del x
        gc.collect()
        assert alive() is not None
        timer.sample(1)
