"""The machinery of a measured sweep: measuring processes and compilers, behind one context."""

from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from tiles.kernels import Backend, Kernel, Status, TileConfig, offline_cuda
from tuning.facts_cache import FactsCache
from tuning.interrupts import Interrupts
from tuning.limits import AdaptiveLimits, JobLimits
from tuning.objective import Objective
from tuning.plan import Plan, StudyPlan
from tuning.precompile import CompilePool
from tuning.records import Environment, Measurement
from tuning.timer import SAMPLING_US
from tuning.timing import Timing
from tuning.worker import Compiled, Target, Worker

__all__ = ["Bench", "Measurable"]

#: What a compiler says of the source; anything else may be the compiling process's own trouble.
_FINAL = (Status.COMPILE, Status.TIMEOUT)
#: While a compilation is waited for, signals are heard this often.
LOOK_S = 0.2


class Measurable(Protocol):
    """What a bench must know of a study."""

    @property
    def plan(self) -> StudyPlan: ...
    @property
    def kernel(self) -> Kernel: ...


class Bench:
    """Measures a plan's configurations in worker processes; leaving the context kills them.

    Args:
        precompile: processes that compile ahead; 0 = none, None = by CPUs and memory, and none for
            kernels of the HOST backend.
        sampling_us: device time that a measurement's samples aim to cover.
    """

    def __init__(
        self,
        plan: Plan,
        limits: JobLimits,
        precompile: int | None,
        interrupts: Interrupts,
        *,
        sampling_us: float = SAMPLING_US,
    ) -> None:
        self._plan = plan
        self._sampling_us = sampling_us
        self._limits = AdaptiveLimits(limits)
        self._facts = FactsCache()
        self._precompile = precompile
        self._interrupts = interrupts
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}
        self._pool: CompilePool | None = None
        self._l2_bytes = plan.gpu.l2_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self, studies: Sequence[Measurable]) -> None:
        """Start compilers and workers.

        Raises:
            ValueError: a study needs a CUDA device and there is none, or it is another GPU; or the
                measuring process does not start.
        """
        devices = {_device(study) for study in studies}
        if "cpu" in devices and self._plan.objective is Objective.ENERGY:
            raise ValueError(
                "objective energy: kernels that run on the host have no energy counter: search "
                "for time, --objective time, or simulate the sweep, --on sim"
            )
        if self._precompile != 0 and ("cuda" in devices or self._precompile is not None):
            on_device = not offline_cuda.available() and any(
                study.kernel.backend is Backend.CUPY for study in studies
            )
            self._pool = self._stack.enter_context(
                CompilePool(self._limits, self._precompile, on_device=on_device)
            )
        for device in sorted(devices):  # a sweep's time limit begins when all is ready
            environment, l2_bytes = self._worker(device).hello()
            if device != "cuda":
                continue
            if not self._plan.gpu.matches(environment.gpu):
                raise ValueError(
                    f"the device is {environment.gpu!r}, the plan is for {self._plan.gpu.name}: "
                    "name the right GPU or simulate the sweep, --on sim"
                )
            self._l2_bytes = max(self._l2_bytes, l2_bytes)
        if self._plan.objective is Objective.ENERGY:
            if not self._worker("cuda").energy_sensor():
                raise ValueError(
                    "objective energy: neither NVML nor nvidia-smi says what the GPU draws: pip "
                    "install 'tile-workbench[cuda]', search for time, --objective time, or "
                    "simulate the sweep, --on sim"
                )

    def compiles_ahead(self, study: Measurable) -> bool:
        """True when announcing this study's configurations early saves time."""
        return self._pool is not None and (_device(study) == "cuda" or bool(self._precompile))

    def announce(
        self, study: Measurable, configs: Sequence[TileConfig], urgent: bool = True
    ) -> None:
        """Have configurations compiled that will be measured soon."""
        if self._pool is not None and self.compiles_ahead(study):
            limits = self._plan.gpu.limits
            fresh = [config for config in configs if not self._hopeless(study, config)]
            self._pool.announce(self._target(study), fresh, limits, urgent=urgent)

    def _hopeless(self, study: Measurable, config: TileConfig) -> bool:
        """True when an earlier compilation has shown that the GPU cannot launch it."""
        limits = self._plan.gpu.limits
        facts = self._facts.get(study.kernel, study.plan.problem, config, limits)
        return facts is not None and bool(facts.refusal(limits))

    def environment(self, study: Measurable) -> Environment:
        """Where this study is measured.

        Raises:
            ValueError: there is no such device, or the measuring process does not start.
        """
        return self._worker(_device(study)).hello()[0]

    def measure(
        self,
        study: Measurable,
        config: TileConfig,
        environment: bool,
        *,
        checked: bool = False,
        cache: str | None = None,
    ) -> tuple[Measurement, Environment | None]:
        """Measure in the worker, unless the compiler has shown that it would be in vain.

        See :meth:`tuning.worker.Worker.measure`; ``cache`` in place of the plan's.
        """
        problem, limits = study.plan.problem, self._plan.gpu.limits
        facts = self._facts.get(study.kernel, problem, config, limits)
        if facts is None or not facts.refusal(limits):
            compiled = self._compiled(study, config)
            facts = compiled.facts or facts
            if compiled.status in _FINAL:
                return (
                    Measurement(status=compiled.status, simulated=False, reason=compiled.reason),
                    None,
                )
        if facts is not None and (refusal := facts.refusal(limits)):
            return (
                Measurement(
                    status=Status.CONSTRAINTS, simulated=False, reason=refusal, facts=facts
                ),
                None,
            )
        worker = self._worker(_device(study))
        target = self._target(study)
        outcome, read = worker.measure(
            target if cache is None else replace(target, cache=cache),
            config,
            environment=environment,
            checked=checked,
        )
        return replace(outcome, facts=facts), read

    def _compiled(self, study: Measurable, config: TileConfig) -> Compiled:
        """How compiling ahead ended; waits for it, since the GPU would wait for the compiler."""
        if self._pool is None or not self.compiles_ahead(study):
            return Compiled()
        self.announce(study, [config])
        future = self._pool.hasten(self._target(study), config)
        while True:
            with self._interrupts.let_through():
                if wait([future], LOOK_S).done:
                    return future.result()

    def compare(self, study: Measurable, configs: Sequence[TileConfig]) -> list[Timing] | str:
        """Time in turns; see :meth:`tuning.worker.Worker.compare`."""
        return self._worker(_device(study)).compare(self._target(study), configs)

    def compare_families(
        self, studies: Sequence[Measurable], configs: Sequence[TileConfig]
    ) -> list[Timing] | str:
        """Time configurations of several families on one problem in turns.

        Args:
            studies: of each configuration, all of one problem and on one device.
            configs: at least one.
        """
        target = self._target(studies[0])
        kernels = [study.plan.kernel for study in studies]
        return self._worker(_device(studies[0])).compare(target, configs, kernels)

    def _worker(self, device: str) -> Worker:
        if device not in self._workers:
            self._workers[device] = self._stack.enter_context(
                Worker(device, self._limits, self._interrupts)
            )
        return self._workers[device]

    def _target(self, study: Measurable) -> Target:
        return Target(
            problem=str(study.plan.problem),
            kernel=study.plan.kernel,
            device=_device(study),
            seed=self._plan.seed,
            cache=self._plan.cache,
            l2_bytes=self._l2_bytes,
            sampling_us=self._sampling_us,
            energy=self._plan.objective is Objective.ENERGY,
        )


def _device(study: Measurable) -> str:
    return "cpu" if study.kernel.backend is Backend.HOST else "cuda"
