"""Real CUDA faults through a whole sweep, and what is compiled and observed beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import record_hostile

import sim
from tiles.kernels import Limits, Status, kernel
from tiles.kernels.cuda.modules import BINARIES
from tiles.problems import parse_problem
from tuning.limits import JobLimits
from tuning.worker import Target, Worker

pytestmark = pytest.mark.gpu


def test_every_fault_ends_with_its_status_and_good_ones_are_measured(tmp_path: Path) -> None:
    found = record_hostile.record(tmp_path / "run", cpu=False, flood_bytes=10**9)
    assert [entry for entry in found["configs"] if not entry["right"]] == []
    assert found["complete"]
    assert found["environment"]["driver"] not in ("none", "unknown")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Worker, Path]]:
    """A measuring process, one that compiles and sees no GPU, and the folder of their caches."""
    cache = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(cache / "triton"))
        patch.setenv("CUPY_CACHE_DIR", str(cache / "cupy"))
        patch.setenv(BINARIES, str(cache / "ahead"))
        patch.delenv("TRITON_INTERPRET", raising=False)
        with Worker("cuda") as measuring, Worker("cpu") as compiling:
            measuring.hello()
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            compiling.hello()
            yield measuring, compiling, cache


def limits_of(worker: Worker) -> Limits:
    """Limits of this GPU, of which there must be a file."""
    name = worker.hello()[0].gpu
    named = [known for known in sim.gpu_names() if sim.load_gpu(known).matches(name)]
    if not named:
        pytest.skip(f"no GPU file for {name}")
    return sim.load_gpu(named[0]).limits


def target_of(family_name: str, problem: str) -> Target:
    return Target(
        problem=problem, kernel=family_name, device="cuda", seed=0, cache="cold", l2_bytes=2**26
    )


@pytest.mark.parametrize(
    ("family_name", "problem"),
    [
        ("triton_gemm", "gemm:2048x2048x2048:bf16:bf16"),
        ("triton_gemm", "gemm:1024x1024x1024:deepseek-fp8:bf16"),
        ("triton_quantize", "quantize:1024x1024:e4m3fn.b1x128:bf16"),
        ("triton_quantize", "quantize:1024x1024:int8.tensor:bf16"),
        ("hopper_gemm", "gemm:1024x1024x1024:int8-row:bf16"),
        ("hopper_skinny_gemm", "gemm:16x1024x1024:int8-row:bf16"),
        ("cuda_quantize", "quantize:1024x1024:int8.b1x128:bf16"),
    ],
)
def test_what_is_compiled_without_a_gpu_is_what_a_launch_finds(
    workers: tuple[Worker, Worker, Path], family_name: str, problem: str
) -> None:
    measuring, compiling, cache = workers
    limits = limits_of(measuring)
    config = kernel(family_name).default(parse_problem(problem), limits)
    target = target_of(family_name, problem)
    before = set(cache.rglob("*.cubin"))
    compiled = compiling.compile(target, config, limits)
    assert compiled.status is None, compiled.reason
    assert compiled.facts is not None
    print(compiled.facts)
    made = set(cache.rglob("*.cubin"))
    assert made - before
    outcome, _ = measuring.measure(target, config)
    assert outcome.status is Status.CORRECT, outcome.reason
    # Nothing was compiled again for the launch.
    assert set(cache.rglob("*.cubin")) == made


def test_sensors_are_read_beside_the_samples(workers: tuple[Worker, Worker, Path]) -> None:
    pytest.importorskip("pynvml")
    measuring, *_ = workers
    problem = "gemm:2048x2048x2048:bf16:bf16"
    config = kernel("triton_gemm").default(parse_problem(problem), limits_of(measuring))
    outcome, _ = measuring.measure(target_of("triton_gemm", problem), config)
    assert outcome.status is Status.CORRECT, outcome.reason
    found = outcome.conditions
    assert found is not None
    print(found)
    assert found.source == "nvml"
    assert found.sm_clock_mhz
    assert min(found.sm_clock_mhz) > 300
    assert found.temperature_c


def test_a_cap_of_device_memory_holds_and_the_next_configuration_is_measured() -> None:
    problem = "gemm:32768x32768x32768:bf16:bf16"
    family = kernel("triton_gemm")
    with Worker("cuda", JobLimits(device_share=0.01)) as worker:
        limits = limits_of(worker)
        large = family.default(parse_problem(problem), limits)
        outcome, _ = worker.measure(target_of("triton_gemm", problem), large)
        assert outcome.status is Status.RUNTIME
        assert "OutOfMemoryError" in outcome.reason
        assert outcome.reason.endswith("(twice, in two processes)")
        problem = "gemm:256x256x256:bf16:bf16"
        small = family.default(parse_problem(problem), limits)
        outcome, _ = worker.measure(target_of("triton_gemm", problem), small)
        assert outcome.status is Status.CORRECT, outcome.reason
        assert worker.starts == 3  # the first failure might have been a neighbour's doing
