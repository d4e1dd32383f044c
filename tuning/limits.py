"""How long a stage of a measuring job may take, and how much memory its process may hold."""

import bisect
from collections import defaultdict
from dataclasses import dataclass

__all__ = ["AdaptiveLimits", "JobLimits"]

#: A limit adapts to this quantile of what the stage took so far, times the factor.
QUANTILE = 0.9
FACTOR = 5.0
#: Successes before a limit adapts; until then the ceiling holds.
ENOUGH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """Ceilings and floors, in seconds, of a job's stages; caps of its process's memory.

    Between floor and ceiling a limit adapts, see :class:`AdaptiveLimits`.
    """

    start_s: float = 180.0  #: importing torch and making a CUDA context
    open_s: float = 300.0  #: making operands
    compile_s: float = 120.0  #: compiling ahead
    compile_floor_s: float = 30.0
    check_s: float = 120.0  #: compiling, the first launch, the reference, the comparison
    check_floor_s: float = 30.0
    time_s: float = 60.0  #: taking the samples, disturbed ones again
    time_floor_s: float = 15.0
    microbenchmark_s: float = 60.0  #: compiling one and running all its cases
    #: Resident host memory of the process and its children; None = 3/4 of what is available.
    host_bytes: int | None = None
    #: Share of the device's memory that torch and CuPy may each allocate.
    device_share: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.device_share <= 1:
            raise ValueError(f"device_share = {self.device_share}: it must lie in (0, 1]")
        if self.host_bytes is not None and self.host_bytes < 2**26:
            raise ValueError(f"host_bytes = {self.host_bytes}: Python alone needs 64 MiB")


class AdaptiveLimits:
    """Limits that follow what stages took so far: 5 times the 0.9 quantile of the successes.

    Never below the floor (compilers share CPUs), never above the ceiling.  What ran into its limit
    is not counted: a family in which every tenth configuration hangs would drive it up.
    Durations belong to a topic, a problem with a kernel family: another problem starts anew.
    """

    def __init__(self, limits: JobLimits) -> None:
        self.limits = limits
        self._taken: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def seconds(self, stage: str, topic: str) -> float:
        """The limit of a stage now.

        Args:
            stage: a field of :class:`JobLimits` that ends in ``_s`` and is no floor.
        """
        ceiling: float = getattr(self.limits, stage)
        floor: float | None = getattr(self.limits, stage.removesuffix("_s") + "_floor_s", None)
        taken = self._taken[topic, stage]
        if floor is None or len(taken) < ENOUGH:
            return ceiling
        usual = taken[int(QUANTILE * (len(taken) - 1))]
        return min(ceiling, max(floor, FACTOR * usual))

    def note(self, stage: str, topic: str, seconds: float) -> None:
        """Count a stage that ended well."""
        bisect.insort(self._taken[topic, stage], seconds)
