"""How long ``workbench error`` takes on every recipe: ``make bench``."""

import os
import time

import workbench
from tiles.recipes import RECIPES

SHAPE = (4096, 4096)
#: Normal data under all recipes on two cores.
BAR_SECONDS, CORES = 60.0, 2


def test_every_recipe_on_a_large_matrix() -> None:
    """Wall-clock time where the machine is idle; what it has to spend on it in processor time."""
    idle = os.getloadavg()[0] < CORES / 2
    start, used = time.perf_counter(), time.process_time()
    report = workbench.error(recipes="all", shape=SHAPE, data="normal")
    seconds, used = time.perf_counter() - start, time.process_time() - used
    assert [row.recipe for row in report.products] == list(RECIPES)
    print(f"{len(RECIPES)} recipes on {SHAPE[0]}x{SHAPE[1]}: {seconds:.1f} s, {used:.1f} s of CPU")
    assert used < BAR_SECONDS * CORES, f"{used:.1f} s of processor time on {CORES} cores"
    assert seconds < BAR_SECONDS or not idle, f"{seconds:.1f} s, at most {BAR_SECONDS:.0f} s"
