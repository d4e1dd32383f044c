"""Studies with made-up times, several configurations each."""

from collections.abc import Sequence
from pathlib import Path

from sim import load_gpu
from tiles.kernels import Accuracy, Status, TileConfig
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.grouped_gemm import GroupedGemmConfig
from tiles.problems import parse_problem
from tuning import Environment, Measurement, Run, StudyRecord, TrialRecord

ENVIRONMENT = Environment(
    gpu="NVIDIA H200", driver="580.1", sm_clock_mhz=1500, versions={"triton": "3.6.0"}
)
PLAIN = GemmConfig(
    block_m=64,
    block_n=128,
    block_k=128,
    group_m=8,
    num_warps=4,
    num_stages=3,
    tma=False,
    persistent=False,
)
EXPERTS = GroupedGemmConfig(
    block_m=64,
    block_n=128,
    block_k=128,
    group_m=8,
    num_warps=4,
    num_stages=3,
    ctas_per_sm=2,
    tma=False,
)
Timed = Sequence[tuple[TileConfig, float]]


def study(
    problem: str,
    timed: Timed = ((PLAIN, 20.0),),
    *,
    family: str = "triton_gemm",
    simulated: bool = False,
    correct: bool = True,
) -> StudyRecord:
    """A study of (configuration, time in us)."""
    accuracy = Accuracy(ok=correct, max_error_over_bound=0.25, relative_rms=1e-3)
    trials = tuple(
        TrialRecord(
            config=config,
            measurement=Measurement(
                status=Status.CORRECT if correct else Status.CORRECTNESS,
                simulated=simulated,
                time_us=time_us if correct else None,
                timing="simulated" if simulated else "graph-rotate",
                accuracy=None if simulated else accuracy,
            ),
            predicted_us=19.5,
            predicted_low_us=15.0,
            predicted_high_us=25.0,
        )
        for config, time_us in timed
    )
    return StudyRecord(
        problem=parse_problem(problem),
        kernel=family,
        gpu="h200",
        path="native",
        simulated=simulated,
        environment=None if simulated else ENVIRONMENT,
        space_size=10,
        legal_size=8,
        rejected_by_rule={},
        stopped="done",
        not_compared="",
        trials=trials,
    )


def linear(m: int, timed: Timed, recipe: str = "deepseek-fp8", out: str = "bf16") -> StudyRecord:
    """Of one layer at M rows."""
    return study(f"gemm:{m}x4096x7168:{recipe}:{out}", timed)


def mixture(
    m: int, n: int, k: int, choices: int, timed: Timed, recipe: str = "deepseek-fp8"
) -> StudyRecord:
    """Of 64 experts, M tokens that each go to so many of them."""
    problem = f"grouped_gemm:64x{m * choices}x{n}x{k}:{recipe}:gathered.{choices}:bf16"
    return study(problem, timed, family="triton_grouped_gemm")


def run_of(*studies: StudyRecord) -> Run:
    """A run read back."""
    return Run(folder=Path("runs/made-up"), plan={}, gpu=load_gpu("h200"), studies=studies)
