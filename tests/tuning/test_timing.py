"""The timing rule's arithmetic, the host's clock, the stopping rule and the naming of faults."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import fake_kernels
import numpy as np
import pytest

from tiles.kernels import Status
from tuning import timer, timing
from tuning.environment import read_environment
from tuning.family import family
from tuning.faults import classify, one_line
from tuning.stopping import improvement_chance
from tuning.timer import (
    MAX_SETS,
    MIN_SAMPLES,
    Timer,
    fewest,
    open_timer,
    operand_sets,
    sample_count,
)
from tuning.timing import SETTLE_S, Timing, time_callable, time_interleaved


@pytest.mark.parametrize(("set_bytes", "l2_bytes"), [(1, 64), (1000, 60_000), (10**6, 62_914_560)])
def test_operand_sets_exceed_four_times_the_l2(set_bytes: int, l2_bytes: int) -> None:
    sets = operand_sets(set_bytes, l2_bytes)
    assert sets * set_bytes > 4 * l2_bytes
    assert (sets - 1) * set_bytes <= 4 * l2_bytes


def test_operand_sets_have_bounds() -> None:
    assert operand_sets(10**9, 60_000_000) == 2
    assert operand_sets(16, 60_000_000) == MAX_SETS


@pytest.mark.parametrize(
    ("estimate_us", "samples"),
    [(50, 200), (1000, 100), (10_000, 30), (100_000, 20), (5e6, 5)],
)
def test_sample_count(estimate_us: float, samples: int) -> None:
    assert sample_count(estimate_us) == samples


def test_time_is_the_median_of_the_samples() -> None:
    timing = Timing.of([3.0, 1.0, 100.0004], "host")
    assert timing.time_us == 3.0
    assert timing.samples_us == (3.0, 1.0, 100.0)


def test_rivals_alternate_and_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    now_ns = [0]
    clock = SimpleNamespace(perf_counter_ns=lambda: now_ns[0])
    monkeypatch.setattr(timer, "time", clock)  # which no other process of the host moves

    def rival(name: str, seconds: float) -> Callable[[int], list[Callable[[], None]]]:
        def launch() -> None:
            calls.append(name)
            now_ns[0] += round(1e9 * seconds)

        return lambda sets: [launch] * sets

    fast, slow = time_interleaved(
        [(rival("fast", 0.002), 1), (rival("slow", 0.004), 1)],
        l2_bytes=1,
        device="cpu",
        rounds=4,
    )
    assert (fast.time_us, slow.time_us) == (2000.0, 4000.0)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert len(turns) >= 5
    assert len(fast.samples_us) >= 10


class _Powered(Timer):
    """A launch on a GPU whose clock takes 80 ms to follow the power that is drawn."""

    name = "events-cold"
    samples = 100
    now_ms = 0.0
    clock = 1.0
    log: ClassVar[list[str]] = []

    def __init__(self, who: str, own_clock: float) -> None:
        self.who, self.own_clock = who, own_clock

    def _run(self) -> float:
        """One millisecond of work at full clock."""
        step = (self.own_clock - _Powered.clock) / 20
        _Powered.clock += step
        _Powered.now_ms += 1 / _Powered.clock
        return 1000.0 / _Powered.clock

    def sample(self, count: int, meanwhile: Callable[[], None] | None = None) -> list[float]:
        _Powered.log.append(f"{self.who} {count}")
        return [self._run() for _ in range(count)]

    def settle(self, duration_s: float) -> None:
        _Powered.log.append(f"{self.who} settles {duration_s}")
        until = _Powered.now_ms + 1e3 * duration_s
        while _Powered.now_ms < until:
            self._run()


@pytest.mark.parametrize("order", [("hungry", "gentle"), ("gentle", "hungry")])
def test_a_rival_settles_before_its_samples(
    order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_clock = {"hungry": 0.8, "gentle": 1.0}
    waiting = [_Powered(who, own_clock[who]) for who in order]
    timers = {timer.who: timer for timer in waiting}
    monkeypatch.setattr(timing, "open_timer", lambda *_, **__: waiting.pop(0))
    monkeypatch.setattr(_Powered, "log", [])
    timings = time_interleaved([(lambda sets: [], 1)] * 2, l2_bytes=1)
    for who, found in zip(order, timings, strict=True):
        # Not even the first samples of a turn show whose turn it was before.
        assert found.samples_us == pytest.approx([1000 / timers[who].own_clock] * 100, rel=0.01)
    first, second = order
    turn = {who: [f"{who} settles {SETTLE_S}", f"{who} 25"] for who in order}
    assert _Powered.log == 2 * (turn[first] + turn[second] + turn[second] + turn[first])


def test_an_event_timer_settles_by_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = pytest.importorskip("tuning.timer_cuda")
    timer = object.__new__(cuda.EventTimer)
    timer.samples = 100
    now = [5.0]
    taken: list[int] = []

    def sample(count: int) -> list[float]:
        taken.append(count)
        now[0] += count * 1e-3
        return [1000.0] * count

    monkeypatch.setattr(timer, "sample", sample)
    monkeypatch.setattr(cuda, "time", SimpleNamespace(monotonic=lambda: now[0]))
    timer.settle(0.09)
    assert taken == [20] * 5
    taken.clear()
    timer.samples = 5  # a kernel of a second: one launch is more than enough
    now[0] += 1.0
    timer.settle(0.0005)
    assert taken == [1]


def test_cache_mode_is_checked() -> None:
    with pytest.raises(ValueError, match="choose cold or warm"):
        open_timer(lambda sets: [], set_bytes=1, l2_bytes=1, cache="hot", device="cpu")


def test_host_timing_is_named() -> None:
    timing = time_callable(
        lambda sets: [lambda: time.sleep(0.001)] * sets, set_bytes=1, l2_bytes=1, device="cpu"
    )
    assert timing.timing == "host"
    assert timing.time_us >= 1000


def chance(measured: list[float], spread: float = 1.1, untried: bool = True) -> float:
    predicted = np.array([10.0, 11.0, 12.0, 13.0, 20.0, 30.0])
    return improvement_chance(
        predicted,
        predicted / spread,
        predicted * spread,
        np.array([False] * 4 + [untried] * 2),
        np.arange(4),
        np.array(measured),
    )


def test_far_candidates_are_unlikely_to_win() -> None:
    assert chance([10.0, 11.0, 12.0, 13.0]) < 1e-6


def test_a_common_bias_is_removed_but_shakes_the_trust_in_the_model() -> None:
    # 2 % off is less than the floor of 3 %: nothing changes.
    assert chance([10.2, 11.22, 12.24, 13.26]) == pytest.approx(chance([10.0, 11.0, 12.0, 13.0]))
    # Twice as slow as predicted, all of them alike: the rest may well be otherwise.
    assert chance([20.0, 22.0, 24.0, 26.0]) > 0.05


def test_a_model_that_misleads_keeps_the_search_going() -> None:
    assert chance([30.0, 11.0, 36.0, 9.0], spread=3.0) > 0.01


def test_nothing_untried_cannot_win() -> None:
    assert chance([10.0, 11.0, 12.0, 13.0], untried=False) == 0.0


def test_chance_matches_a_simulation() -> None:
    rng = np.random.default_rng(0)
    predicted = np.array([10.0, 10.5, 11.0, 11.5, 10.8, 11.2])
    measured = np.array([10.9, 10.2, 11.6, 11.0])
    low, high = predicted / 1.1, predicted * 1.1
    untried = np.array([False] * 4 + [True] * 2)
    said = improvement_chance(predicted, low, high, untried, np.arange(4), measured)
    errors = np.log(measured / predicted[:4])
    bias = np.median(errors)
    sigma = min(np.log(1.1**2) / (2 * 1.6449), 1.4826 * np.median(abs(errors - bias)))
    drawn = np.log(predicted[4:]) + bias + sigma * rng.standard_normal((200_000, 2))
    won = (drawn < np.log(measured.min() * 0.99)).any(axis=1).mean()
    assert said == pytest.approx(won, abs=0.005)


def test_faults_are_told_apart() -> None:
    assert classify(fake_kernels.CompilationError("no")) == (
        Status.COMPILE,
        "CompilationError: no",
    )
    assert classify(RuntimeError("PassManager::run failed"))[0] is Status.COMPILE
    assert classify(MemoryError()) == (Status.RUNTIME, "MemoryError")
    assert one_line("\n a \n\n b\n c ") == "a ... c"
    assert len(one_line("x" * 1000)) == 300


def test_triton_errors_are_compile_errors() -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    error = errors.OutOfResources(300_000, 232_448, "shared memory")
    status, reason = classify(error)
    assert status is Status.COMPILE
    assert "Required: 300000" in reason
    assert classify(errors.PTXASError("bad"))[0] is Status.COMPILE
    compiler = pytest.importorskip("triton.compiler.errors")
    assert classify(compiler.UnsupportedLanguageConstruct(None, None, "no")) == (
        Status.COMPILE,
        "UnsupportedLanguageConstruct: no",
    )


def test_families_resolve_by_name_and_by_path() -> None:
    assert family("triton_gemm").name == "triton_gemm"
    assert isinstance(family("fake_kernels:FakeKernel"), fake_kernels.FakeKernel)
    with pytest.raises(ValueError, match="write module:attribute"):
        family("fake_kernels:Absent")
    with pytest.raises(ValueError, match="not a Kernel"):
        family("fake_kernels:GPU")


def test_environment_names_versions() -> None:
    environment = read_environment("cpu")
    assert environment.sm_clock_mhz is None
    assert set(environment.versions) >= {"python", "torch", "triton", "numpy", "tile-workbench"}


@pytest.mark.parametrize(
    ("estimate_us", "sampling_us", "samples"),
    [(50, 8e3, 160), (1000, 8e3, 8), (10_000, 8e3, 5), (1000, 1e5, 100)],
)
def test_a_shorter_window_takes_fewer_samples_but_never_less_than_five(
    estimate_us: float, sampling_us: float, samples: int
) -> None:
    least = fewest(sampling_us, MIN_SAMPLES)
    assert sample_count(estimate_us, sampling_us, least) == samples


def test_the_hosts_clock_takes_the_window_asked_for() -> None:
    counts = [
        open_timer(
            lambda sets: [lambda: time.sleep(2e-4)] * sets,
            set_bytes=1,
            l2_bytes=1,
            device="cpu",
            sampling_us=window,
        ).samples
        for window in (2e3, 1e5)
    ]
    assert counts[0] == 5
    assert counts[1] >= 10
