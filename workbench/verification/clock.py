"""Reads the multiprocessors' clock while a contender runs."""

import threading
import time
from collections.abc import Callable

import torch

from tuning.environment import sm_clock_mhz
from tuning.timer import Timer

__all__ = ["clock_under_load"]

#: Queued at a time, so that the last of it ends soon after the reading.
SLICE_S = 0.02
#: The clock follows the power limit within some tens of milliseconds.
WARM_UP_S = 0.1


def clock_under_load(
    timer: Timer,
    *,
    read: Callable[[], int | None] = sm_clock_mhz,
    wait: Callable[[], None] = torch.cuda.synchronize,
    warm_up_s: float = WARM_UP_S,
) -> int | None:
    """SM clock in MHz while the timer's launch runs back to back; ``None`` when nothing answers.

    ``nvidia-smi`` takes longer than any queue of short launches, so a thread reads and this one
    keeps queueing until the answer is there.

    Args:
        timer: its ``load`` queues launches.
        read: asks for the clock.
        wait: returns when what is queued has run.
        warm_up_s: load before the reading.
    """
    answers: list[int | None] = []
    reader = threading.Thread(target=lambda: answers.append(read()), daemon=True)
    until = time.monotonic() + warm_up_s
    while True:
        timer.load(SLICE_S)
        wait()
        if time.monotonic() >= until:
            break
    # Something is always queued while the clock is read.
    timer.load(SLICE_S)
    reader.start()
    while reader.is_alive():
        timer.load(SLICE_S)
        wait()
    return answers[0] if answers else None
