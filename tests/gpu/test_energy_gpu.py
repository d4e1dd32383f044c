"""Energy of launches on a real GPU, read behind their times."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tuning
from sim import load_gpu
from tiles.kernels import Status, kernel
from tiles.problems import parse_problem
from tuning import Plan, StudyPlan
from tuning.energy_reading import LONGEST_S
from tuning.objective import Objective
from tuning.visible_gpu import visible_gpu
from tuning.worker import Target, Worker

pytestmark = pytest.mark.gpu

LONG, SHORT = "gemm:4096x4096x4096:bf16:bf16", "gemm:16x4096x4096:bf16:bf16"


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker("cuda") as found:
        if not found.energy_sensor():
            pytest.skip("neither NVML nor nvidia-smi says what this GPU draws")
        yield found


@pytest.mark.alone
@pytest.mark.parametrize("text", [LONG, SHORT])
def test_energy_is_read_behind_the_time_and_repeats(worker: Worker, text: str) -> None:
    problem = parse_problem(text)
    gpu = load_gpu("h200")
    config = kernel("triton_gemm").default(problem, gpu.limits)
    target = Target(
        problem=text,
        kernel="triton_gemm",
        device="cuda",
        seed=0,
        cache="cold",
        l2_bytes=gpu.l2_bytes,
        energy=True,
    )
    found = [worker.measure(target, config)[0] for _ in range(2)]
    turns = worker.compare(target, [config, config])
    for outcome in found:
        assert outcome.status is Status.CORRECT, outcome.reason
        assert outcome.energy is not None
        assert outcome.energy.power_w is not None
        print(f"{text}: {outcome.energy}, {outcome.energy.power_w:.0f} W")
        assert 30 < outcome.energy.power_w < 1500
        assert outcome.energy.seconds <= 2 * LONGEST_S
    energies = [outcome.energy.energy_mj for outcome in found if outcome.energy]
    assert energies[0] == pytest.approx(energies[1], rel=0.1)
    assert not isinstance(turns, str), turns
    for timing in turns:
        assert timing.energy is not None
        assert timing.energy.energy_mj == pytest.approx(energies[0], rel=0.15)


def test_a_sweep_for_energy_is_measured(tmp_path: Path) -> None:
    gpu, name = load_gpu("h200"), visible_gpu()
    if name is None or not gpu.matches(name):
        pytest.skip("this GPU is no H200")
    plan = Plan(
        studies=(StudyPlan(problem=parse_problem(SHORT), kernel="triton_gemm"),),
        gpu=gpu,
        folder=tmp_path / "run",
        max_measurements=6,
        objective=Objective.ENERGY,
    )
    (study,) = tuning.run(plan).studies
    assert study.best is not None
    assert study.best.measurement.energy is not None
    read = [t for t in study.trials if t.measurement.energy is not None]
    assert len(read) > 1
    assert all(t.predicted_energy_mj is not None for t in read)
