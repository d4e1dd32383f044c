"""The whole calibration of a GPU within a time limit, resumed where it was stopped."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sim import Gpu
from sim.calibration.file import About, calibration_text
from sim.calibration.learn import Learned, learn
from sim.calibration.unknowns import RATES
from tiles.kernels import Status
from tuning.calibration.alone import alone_in
from tuning.calibration.design import PER_STUDY, design
from tuning.calibration.simulated import SimulatedMachine
from tuning.calibration.timings import measured_tables
from tuning.limits import JobLimits
from tuning.microbench.outcome import Outcome, used_figures
from tuning.microbench.run import run_microbenchmarks
from tuning.microbench.simulated import simulated_samples
from tuning.plan import Plan, Strategy
from tuning.records import Environment, Run
from tuning.search import Progress
from tuning.store import check_folder
from tuning.sweep import run as run_sweep
from tuning.worker import Worker

__all__ = ["TIMINGS", "Calibrated", "calibrate"]

TIMINGS = (16, 1024)  #: fewest and most
#: Kept back for the fit and for a measurement that is under way when time is up.
RESERVE_S = 60.0
#: Of the time limit, at most, for microbenchmarks.
MICROBENCH_SHARE = 0.35
#: How far a figure that a microbenchmark finds may be from what the model means by it, in log: the
#: clock is that of one library's products, others draw other power.
MEANING = {"sustained_clock_mhz": 0.06, "l2_read_gb_per_s": 0.10, "tensor_share": 0.03}
USUAL_MEANING = 0.03
#: One configuration may not take the time of twenty.
LIMITS = JobLimits(open_s=60.0, compile_s=60.0, check_s=60.0, time_s=15.0, microbenchmark_s=45.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What a calibration came to."""

    learned: Learned
    text: str  #: of the calibration file
    outcomes: tuple[Outcome, ...]
    planned: int
    measured: int
    failed: dict[str, int]  #: by status
    left_out: tuple[str, ...]  #: what there was no time for
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a calibration stands: a microbenchmark that ended, or a timing."""

    stage: str  #: "microbenchmarks" or "timings"
    done: int
    total: int
    line: str


def calibrate(
    gpu: Gpu,
    folder: Path,
    *,
    simulate: bool,
    timings: int,
    seed: int,
    time_limit_s: float,
    progress: Callable[[Step], None] = lambda _: None,
) -> Calibrated:
    """Microbenchmarks, stratified timings, and the fit.

    Args:
        folder: keeps what was measured; the same call goes on with it.
        simulate: on a machine of known constants, without a GPU.
        timings: of kernels, in all.
        time_limit_s: of everything, compilation included.

    Raises:
        ValueError: no such device, another GPU, a folder of something else, an argument out of
            range, or too little time for a single timing.
    """
    begin = time.monotonic()
    if not TIMINGS[0] <= timings <= TIMINGS[1]:
        raise ValueError(f"timings = {timings}: take {TIMINGS[0]} to {TIMINGS[1]}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: must lie in 0..2^32-1")
    if time_limit_s <= 2 * RESERVE_S:
        raise ValueError(
            f"a time limit of {time_limit_s:g} s: the fit alone needs {RESERVE_S:g}: "
            f"give more than {2 * RESERVE_S:g} s"
        )
    plan = Plan(
        studies=design(gpu, timings, seed),
        gpu=gpu,
        folder=folder / "timings",
        strategy=Strategy.STRATIFIED,
        max_measurements=PER_STUDY,
        time_limit_s=time_limit_s,
        seed=seed,
        simulate=simulate,
    )
    with alone_in(folder):
        # Before minutes of microbenchmarks, which would take the place of those in the folder.
        check_folder(plan, elsewhere="another folder")
        return _measured(plan, folder, time_limit_s, begin, progress)


def _measured(
    plan: Plan,
    folder: Path,
    time_limit_s: float,
    begin: float,
    progress: Callable[[Step], None],
) -> Calibrated:
    """What is left of the time limit for microbenchmarks and the plan, then the fit."""
    gpu, seed, simulate = plan.gpu, plan.seed, plan.simulate
    machine = SimulatedMachine(gpu, seed) if simulate else None
    outcomes, unbegun, environment = _microbenchmarks(
        gpu, folder, machine, seed, MICROBENCH_SHARE * time_limit_s, progress
    )
    left_s = max(1.0, time_limit_s - RESERVE_S - (time.monotonic() - begin))
    plan = replace(plan, time_limit_s=left_s)
    done = 0

    def tell(one: Progress) -> None:
        nonlocal done
        if one.trial is not None:
            done += 1
            progress(
                Step(
                    stage="timings",
                    done=done,
                    total=PER_STUDY * len(plan.studies),
                    line=f"{one.study.problem} {one.study.kernel}",
                )
            )

    run = run_sweep(plan, tell, price=None if machine is None else machine.price, limits=LIMITS)
    return _fitted(gpu, run, outcomes, unbegun, environment, simulate, plan, begin)


def _microbenchmarks(
    gpu: Gpu,
    folder: Path,
    machine: SimulatedMachine | None,
    seed: int,
    seconds: float,
    progress: Callable[[Step], None],
) -> tuple[list[Outcome], list[str], Environment]:
    def tell(one: Outcome, number: int, total: int) -> None:
        line = one.name if one.status is Status.CORRECT else f"{one.name}: {one.reason}"
        progress(Step(stage="microbenchmarks", done=number, total=total, line=line))

    if machine is not None:
        outcomes, left = run_microbenchmarks(
            folder,
            gpu,
            f"simulated {gpu.name} {seed}",
            lambda name, cases: [
                simulated_samples(name, case, machine.machine.gpu, seed) for case in cases
            ],
            seconds=seconds,
            progress=tell,
        )
        nowhere = Environment(gpu=gpu.title, driver="none", sm_clock_mhz=None, versions={})
        return outcomes, left, nowhere
    with Worker("cuda", LIMITS) as worker:
        environment, _ = worker.hello()
        if not gpu.matches(environment.gpu):
            raise ValueError(
                f"the device is {environment.gpu!r}, not a {gpu.name}: name the right GPU, or a "
                "GPU file of it"
            )
        outcomes, left = run_microbenchmarks(
            folder,
            gpu,
            f"{environment.gpu} {environment.driver}",
            worker.microbenchmark,
            seconds=seconds,
            progress=tell,
        )
    return outcomes, left, environment


def _fitted(
    gpu: Gpu,
    run: Run,
    outcomes: list[Outcome],
    unbegun: list[str],
    environment: Environment,
    simulate: bool,
    plan: Plan,
    begin: float,
) -> Calibrated:
    tables = measured_tables(run)
    if not tables:
        raise ValueError(
            f"{plan.folder}: not one kernel was timed: see `workbench report {plan.folder}`"
        )
    figures = used_figures(outcomes, gpu)
    measured = sum(len(one) for one in tables)
    now = datetime.now(UTC)
    kind = "SIMULATED machine, " if simulate else ""
    learned = learn(
        tables,
        gpu,
        figures={name: one.value for name, one in figures.items()},
        sigmas={
            name: math.hypot(one.spread, MEANING.get(name, USUAL_MEANING))
            for name, one in figures.items()
        },
        title=f"{kind}{environment.gpu}, {now:%Y-%m-%d}, {measured} timings",
    )
    failed = Counter(
        trial.measurement.status.value
        for study in run.studies
        for trial in study.trials
        if trial.measurement.time_us is None
    )
    finished = {(str(s.problem), s.kernel): len(s.trials) for s in run.studies}
    left_out = [f"microbenchmark {name}" for name in unbegun]
    for study in plan.studies:
        got = finished.get((str(study.problem), study.kernel), 0)
        if got == 0:
            left_out.append(f"{study.problem} {study.kernel}")
    planned = PER_STUDY * len(plan.studies)
    about = About(
        device=environment.gpu,
        driver=environment.driver,
        versions=environment.versions,
        made=now.isoformat(timespec="seconds"),
        simulated=simulate,
        measured={name: one.to_dict() for name, one in figures.items()},
        microbenchmarks=[
            {key: value for key, value in one.to_dict().items() if key != "samples"}
            for one in outcomes
        ],
        timings={
            "planned": planned,
            "measured": measured,
            "failed": dict(failed),
            "left_out": left_out,
        },
    )
    return Calibrated(
        learned=learned,
        text=calibration_text(
            learned.calibration, about, _spreads(learned), [one.kernel for one in tables]
        ),
        outcomes=tuple(outcomes),
        planned=planned,
        measured=measured,
        failed=dict(failed),
        left_out=tuple(left_out),
        seconds=time.monotonic() - begin,
    )


def _spreads(learned: Learned) -> dict[str, float]:
    """What data and priors leave of each unknown, by the name that the file knows it by."""
    found: dict[str, float] = {}
    for one, spread in zip(learned.unknowns.all, learned.fit.spreads.tolist(), strict=True):
        if not one.shared:
            found[f"{one.owner}.{one.name}"] = spread
        else:
            found[f"{RATES}.{one.name}" if one.owner == RATES else one.name] = spread
    return found
