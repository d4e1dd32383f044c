"""The machinery of a measured sweep: measuring processes and compilers, behind one context."""

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tiles.kernels import Backend, TileConfig
from tuning.candidates import Candidates
from tuning.interrupts import Interrupts
from tuning.plan import Plan
from tuning.precompile import CompilePool
from tuning.records import Environment, Measurement
from tuning.timing import Timing
from tuning.worker import JobLimits, Target, Worker

__all__ = ["Bench"]


class Bench:
    """Measures a plan's configurations in worker processes; leaving the context kills them.

    Args:
        precompile: processes that compile ahead; None = by CPUs and memory, 0 = none.
    """

    def __init__(
        self, plan: Plan, limits: JobLimits, precompile: int | None, interrupts: Interrupts
    ) -> None:
        self._plan = plan
        self._limits = limits
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

    def start(self, studies: Sequence[Candidates]) -> None:
        """Start compilers and worker, and hand the studies' seeds to the compilers.

        Raises:
            ValueError: a study needs a CUDA device and there is none, or it is another GPU; or the
                measuring process does not start.
        """
        on_gpu = [study for study in studies if _device(study) == "cuda"]
        if len(on_gpu) < len(studies):
            self._worker("cpu").hello()  # its start is no part of a sweep's time limit
        if not on_gpu:
            return
        if self._precompile != 0:
            self._pool = self._stack.enter_context(CompilePool(self._limits, self._precompile))
        environment, l2_bytes = self._worker("cuda").hello()
        if not self._plan.gpu.matches(environment.gpu):
            raise ValueError(
                f"the device is {environment.gpu!r}, the plan is for {self._plan.gpu.name}: "
                "name the right GPU or simulate the sweep, --on sim"
            )
        self._l2_bytes = max(self._l2_bytes, l2_bytes)
        # In the order of measuring: a compiler stays with a problem as the worker does.
        for study in on_gpu:
            self.announce(study, study.configs(study.seeds(self._plan)), urgent=False)

    def compiles_ahead(self, study: Candidates) -> bool:
        """True when announcing this study's configurations early saves time."""
        return self._pool is not None and _device(study) == "cuda"

    def announce(
        self, study: Candidates, configs: Sequence[TileConfig], urgent: bool = True
    ) -> None:
        """Have configurations compiled that will be measured soon."""
        if self._pool is not None and _device(study) == "cuda":
            self._pool.announce(self._target(study), configs, urgent=urgent)

    def environment(self, study: Candidates) -> Environment:
        """Where this study is measured.

        Raises:
            ValueError: there is no such device, or the measuring process does not start.
        """
        return self._worker(_device(study)).hello()[0]

    def measure(
        self, study: Candidates, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        """Measure in the worker; see :meth:`tuning.worker.Worker.measure`."""
        worker = self._worker(_device(study))
        return worker.measure(self._target(study), config, environment=environment)

    def compare(self, study: Candidates, configs: Sequence[TileConfig]) -> list[Timing] | str:
        """Time in turns; see :meth:`tuning.worker.Worker.compare`."""
        return self._worker(_device(study)).compare(self._target(study), configs)

    def _worker(self, device: str) -> Worker:
        if device not in self._workers:
            self._workers[device] = self._stack.enter_context(
                Worker(device, self._limits, self._interrupts)
            )
        return self._workers[device]

    def _target(self, study: Candidates) -> Target:
        return Target(
            problem=str(study.plan.problem),
            kernel=study.plan.kernel,
            device=_device(study),
            seed=self._plan.seed,
            cache=self._plan.cache,
            l2_bytes=self._l2_bytes,
        )


def _device(study: Candidates) -> str:
    return "cpu" if study.kernel.backend is Backend.HOST else "cuda"
