"""Where a transformer block's step spends its time, kernel by kernel.

    python -m bench.block_profile --variant jetfire-128 --output profile.json

One step forward and backward under ``torch.profiler``, behind half a second of it, so that the
clock is that of ``bench.block``: every kernel with its launches and the sum of its times, the
longest first, and what of the step no kernel covers.
``--device cpu`` lists torch's operators instead, of a small model.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.block import CASES, case_of
from bench.block_timing import SETTLE_S, block_step
from bench.coded_block import CODED
from bench.command_line import recorded
from tuning.environment import read_environment
from workbench.outfile import check_outfile, write_outfile

__all__ = ["Spent", "main", "profile", "table"]

SCHEMA = "tile-workbench/block-profile/1"
SETTLING, STEPS = 5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A kernel's part of one step."""

    kernel: str
    launches: float
    time_us: float


def profile(step: Callable[[], None], device: str, *, settle_s: float = SETTLE_S) -> list[Spent]:
    """Kernels of a step (operators on a CPU), means over some, the longest first.

    On a GPU behind ``settle_s`` of steps that are traced too and thrown away: the power limit takes
    hold of the clock in half a second, and a pause would let go of it again.
    """
    from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch exports it so
    from torch.profiler import ProfilerActivity, schedule
    from torch.profiler import profile as profiled

    cuda = device != "cpu"
    settling = _settling(step, settle_s) if cuda else SETTLING
    with profiled(
        activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=settling, active=STEPS, repeat=1),
        acc_events=True,
    ) as found:
        for index in range(settling + STEPS):
            step()
            # What the host is ahead by would be counted among the steps that follow.
            if cuda and index in (settling - 1, settling + STEPS - 1):
                import torch

                torch.cuda.synchronize()
            found.step()
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    spent = [
        Spent(
            kernel=event.key,
            launches=event.count / STEPS,
            time_us=(event.self_device_time_total if cuda else event.self_cpu_time_total) / STEPS,
        )
        for event in found.key_averages()
        if event.device_type == wanted
    ]
    return sorted(spent, key=lambda one: one.time_us, reverse=True)


def _settling(step: Callable[[], None], settle_s: float) -> int:
    """Steps of so long, and no fewer than ``SETTLING``."""
    import torch

    for _ in range(SETTLING):
        step()
    torch.cuda.synchronize()
    begin = time.monotonic()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    each_s = (time.monotonic() - begin) / STEPS
    return max(SETTLING, round(settle_s / each_s))


def table(spent: Sequence[Spent]) -> list[str]:
    """A line a kernel, and their sum."""
    lines = [
        f"{one.time_us / 1e3:9.3f} ms {one.launches:6.1f} x  {one.kernel[:120]}" for one in spent
    ]
    total = sum(one.time_us for one in spent) / 1e3
    return [*lines, f"{total:9.3f} ms in all"]


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    parser = argparse.ArgumentParser(prog="python -m bench.block_profile", description=__doc__)
    parser.add_argument("--case", metavar="MODEL.json:BxT", default=None)
    parser.add_argument("--variant", choices=("eager", *CODED), required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, required=True)
    given = sys.argv[1:] if given is None else list(given)
    chosen = parser.parse_args(given)
    try:
        check_outfile(chosen.output, SCHEMA)
        case = CASES[0] if chosen.case is None else case_of(chosen.case)
        step = block_step(case, chosen.device, chosen.variant)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    spent = profile(step, chosen.device)
    content = {
        "schema": SCHEMA,
        "case": str(case),
        "variant": chosen.variant,
        "device": chosen.device,
        "commit": chosen.commit,
        "command": recorded("bench.block_profile", given),
        "environment": read_environment(chosen.device).to_dict(),
        "kernels": [asdict(one) for one in spent],
    }
    write_outfile(chosen.output, json.dumps(content, indent=1) + "\n")
    print("\n".join(table(spent)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
