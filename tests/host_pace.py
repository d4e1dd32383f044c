"""How slow this host is at the moment, for bars on CPU time in tests marked ``alone``."""

import time

__all__ = ["LOOP", "slowness"]

#: A plain loop, and the seconds of CPU that it takes on the host that the bars are meant for.
LOOP = "sum(i * i % 7 for i in range(3_000_000))"
LOOP_S = 0.2


def slowness(loop_s: float | None = None) -> float:
    """How many times as long as there :data:`LOOP` takes here; at least 1.

    Args:
        loop_s: what it took, start of an interpreter included; measured in this process if None.
    """
    if loop_s is None:
        begun = time.process_time()
        exec(LOOP)
        loop_s = time.process_time() - begun
    return max(1.0, loop_s / LOOP_S)
