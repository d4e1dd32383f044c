"""Rivals multiply what the package multiplies, and their clock is read while they run."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import workbench
from tiles.kernels.quantize_torch import quantize_torch
from tiles.problems import Gemm, parse_problem
from tiles.recipes import recipe
from tuning.timer import Timer
from tuning.timing import time_interleaved
from workbench.verification import RivalTiming, rivals
from workbench.verification.checks import environment_of
from workbench.verification.clock import clock_under_load
from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.operands import Pattern
from workbench.verification.rival_products import RIVALS, make_launch, rival_operands

SHAPE = (24, 384, 640)
BY_RECIPE = {rival.recipe: rival for rival in RIVALS}


def _own(name: str) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    m, n, k = SHAPE
    problem = parse_problem(f"gemm:{m}x{n}x{k}:{name}:bf16")
    assert isinstance(problem, Gemm)
    package = SimpleNamespace()
    entry = GemmEntry(problem=problem, config={}, package=package, device="cpu", seed=5)  # type: ignore[arg-type]
    a, b = entry.operands(problem, Pattern.RANDOM)
    return a.codes, a.scales, b.codes, b.scales


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("name", BY_RECIPE)
def test_rivals_get_the_codes_and_scales_of_the_own_entry(name: str) -> None:
    got = rival_operands(BY_RECIPE[name], SHAPE, seed=5, device="cpu")
    a, a_scale, b, b_scale = _own(name)
    assert torch.equal(_bits(got.a), _bits(a))
    assert torch.equal(_bits(got.b), _bits(b))
    if name == "int8-row":
        assert got.a_scale is None
        assert got.out_dtype is torch.int32
    elif a_scale is not None:
        assert b_scale is not None
        assert got.a_scale is not None
        assert got.b_scale is not None
        assert torch.equal(got.a_scale.reshape(a_scale.shape), a_scale)
        assert torch.equal(got.b_scale.t().reshape(b_scale.shape), b_scale)
    # Normals quantised under the recipe, the same ones for all recipes.
    generator = torch.Generator("cpu").manual_seed(5)
    x = torch.randn(SHAPE[0], SHAPE[2], generator=generator)
    codes, _ = quantize_torch(x, recipe(name).activation)
    assert torch.equal(_bits(got.a), _bits(codes))


@pytest.mark.parametrize(
    ("name", "a_layout", "b_layout"),
    [
        ("e4m3-tensor", ((), ()), ((), ())),
        ("e4m3-row", ((24, 1), (1, 1)), ((1, 384), (384, 1))),
        # 640 = 5 blocks of K, padded to 8 in B's grid; 24 rows contiguous in A's.
        ("deepseek-fp8", ((24, 5), (1, 24)), ((5, 3), (1, 8))),
    ],
)
def test_scales_lie_as_scaled_mm_wants_them(
    name: str,
    a_layout: tuple[tuple[int, ...], tuple[int, ...]],
    b_layout: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    got = rival_operands(BY_RECIPE[name], SHAPE, seed=5, device="cpu")
    for scale, (shape, stride) in ((got.a_scale, a_layout), (got.b_scale, b_layout)):
        assert scale is not None
        assert tuple(scale.shape) == shape
        # torch asks for strides of what is longer than 1 only.
        real = [have for have, size in zip(scale.stride(), shape, strict=True) if size > 1]
        assert real == [want for want, size in zip(stride, shape, strict=True) if size > 1]


@pytest.mark.parametrize("name", ["bf16", "int8-row", "e4m3-tensor"])
def test_rivals_compute_the_product_into_rotating_outputs(name: str) -> None:
    rival = BY_RECIPE[name]
    operands = rival_operands(rival, SHAPE, seed=5, device="cpu")
    first, second = (make_launch(rival, operands)() for _ in range(2))
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.data_ptr() != second.data_ptr()
    assert first.dtype is operands.out_dtype
    exact = operands.a.double() @ operands.b.double().T
    if operands.a_scale is not None and operands.b_scale is not None:
        exact *= operands.a_scale.double() * operands.b_scale.double()
    assert (first.double() - exact).norm() < 0.01 * exact.norm()
    assert torch.equal(first, second)


def test_a_launch_writes_the_same_output_again() -> None:
    rival = BY_RECIPE["int8-row"]
    launch = make_launch(rival, rival_operands(rival, SHAPE, seed=5, device="cpu"))
    first, second = launch(), launch()
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert first.data_ptr() == second.data_ptr()
    assert rival.note == "writes unscaled int32"


class _Load(Timer):
    def __init__(self) -> None:
        self.loads = 0

    def sample(self, count: int) -> list[float]:
        return [1.0] * count

    def load(self, duration_s: float) -> None:
        self.loads += 1


def test_the_clock_is_read_while_work_is_queued() -> None:
    timer, busy = _Load(), threading.Event()

    def wait() -> None:
        if timer.loads > 50:
            busy.set()

    def read() -> int | None:
        before = timer.loads
        # A slow reader (nvidia-smi takes a second) still meets a working GPU.
        assert busy.wait(20)
        assert timer.loads > before > 0
        return 1590

    assert clock_under_load(timer, read=read, wait=wait, warm_up_s=0.0) == 1590


def test_a_timing_keeps_its_clock() -> None:
    timing = RivalTiming(
        problem="gemm:1x2x3", rival="torch._int_mm", time_us=1.0, sm_clock_mhz=1590
    )
    assert timing.sm_clock_mhz == 1590
    assert RivalTiming(problem="gemm:1x2x3", rival="x", time_us=None).sm_clock_mhz is None


def test_the_version_is_known_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workbench.__version__[0].isdigit()
    monkeypatch.setattr("tuning.environment._PACKAGES", ("no-such-package", "tile-workbench"))

    def missing(name: str) -> str:
        from importlib.metadata import PackageNotFoundError

        raise PackageNotFoundError(name)

    monkeypatch.setattr("tuning.environment.version", missing)
    versions = environment_of("cpu")["versions"]
    assert versions["tile-workbench"] == workbench.__version__
    assert versions["no-such-package"] == "absent"


def test_every_line_becomes_a_timing_with_clock_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(L2_cache_size=1)
    )
    monkeypatch.setattr(rivals, "time_interleaved", partial(time_interleaved, device="cpu"))
    monkeypatch.setattr(rivals, "_clock", lambda contender, l2_bytes: 1590)
    contenders = [rivals._rival(rival, (32, 64, 128), 5, "cpu") for rival in RIVALS]
    lines = [line["rival"] for line in rivals.time_contenders(contenders)]
    timings = {line["rival"]: RivalTiming(**line) for line in lines}
    assert set(timings) == {rival.name for rival in RIVALS}
    for timing in timings.values():
        # torch for the CPU takes no row or block scales.
        assert (timing.sm_clock_mhz == 1590) == (not timing.refused)
        assert timing.problem == "gemm:32x64x128"
    assert timings["torch._int_mm"].note == "writes unscaled int32"
    assert timings["torch._int_mm"].time_us is not None
