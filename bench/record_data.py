"""Records the data sets that the cost model is judged by, in slices of device time.

    python -m bench.record_data --state runs/data --output data/h200 --time-limit 8m [--gpus 2]

The first call stores the design in ``--state``; every call measures what is missing, in the
design's order, and writes all that was measured so far as one Parquet file and card for each part:
``OUTPUT/products``, ``OUTPUT/streams``, ``OUTPUT/others``, ``OUTPUT/warm``.  Killed or out of
time, the same command goes on.  ``--gpus N`` shares the work among N GPUs of the host, a process
each.

``--rehearse`` goes through the same code on a simulated machine with a clock of its own and tells
what a call would measure; its files are named ``simulated.parquet`` and hold no measurement.
``--design`` stores the design and tells its size; ``--record-only`` writes no files (they need
pyarrow), ``--export`` writes them from what was recorded, on any host.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.command_line import recorded
from bench.visible_devices import visible_devices
from sim import Gpu, load_gpu
from sim.measured_file import MEASUREMENTS_FILE, write_measured
from tuning.recording.card import card
from tuning.recording.choosing import make_design
from tuning.recording.design import Design, RecordedStudy, read_design, write_design
from tuning.recording.record import PASSES, SAMPLING_MS, record
from tuning.recording.rehearsal import Assumed, Rehearsal
from tuning.recording.tables import recorded_sets
from tuning.visible_gpu import visible_gpu
from workbench.time_limit import parse_time_limit

__all__ = ["export", "main", "stored_design"]

DESIGN_FILE, PASSES_FOLDER, CARD_FILE = "design.json.gz", "passes", "CARD.md"
SIMULATED_FILE = "simulated.parquet"
#: Kept back of a limit for ending the processes and writing the files.
RESERVE_S = 15.0


def stored_design(state: Path, gpu: Gpu, seed: int, shapes: int | None) -> Design:
    """The design in a folder of state, made where there is none.

    Raises:
        ValueError: it is of another seed, GPU or kernel source.
    """
    path = state / DESIGN_FILE
    if not path.exists():
        write_design(make_design(gpu, seed, first=shapes), path)
    design = read_design(path, gpu)
    if design.seed != seed:
        raise ValueError(f"{path}: its seed is {design.seed}, not {seed}: give that one")
    return design


def export(state: Path, output: Path, design: Design, command: str) -> list[str]:
    """Write all that was measured so far; a line for each part.

    Raises:
        ValueError: nothing was measured yet, a file of passes is damaged, or a folder cannot be
            written.
    """
    lines = []
    for one in recorded_sets(state / PASSES_FOLDER, design):
        if not one.tables:
            continue
        simulated = one.tables[0].gpu.startswith("simulated-")
        folder = output / one.part
        file = SIMULATED_FILE if simulated else MEASUREMENTS_FILE
        write_measured(folder / file, one.tables)
        temporary = folder / (CARD_FILE + ".tmp")
        temporary.write_text(card(one, design, file, command), encoding="utf-8")
        temporary.replace(folder / CARD_FILE)
        rows = sum(map(len, one.tables))
        apart = "" if one.noise is None else f", repeats {100 * one.noise.median:.1f} % apart"
        lines.append(
            f"{folder / file}: {rows} of {one.planned} configurations, {len(one.tables)} "
            f"studies{apart}"
        )
    if not lines:
        raise ValueError(f"{state}: nothing was measured yet: record first")
    return lines


def _parts(design: Design) -> str:
    studies = Counter(one.part for one in design.studies)
    rows = Counter[str]()
    for one in design.studies:
        rows[one.part] += len(one.configs)
    text = ", ".join(f"{rows[part]} {part} in {studies[part]} studies" for part in rows)
    return f"design of seed {design.seed}: {text}"


def _children(arguments: argparse.Namespace, given: Sequence[str]) -> int:
    """One process a GPU; their exit codes' worst, 1 where a signal ended one."""
    devices = visible_devices(arguments.gpus)
    command = (sys.executable, "-m", "bench.record_data", *given)
    running: list[subprocess.Popen[bytes]] = []
    # By default the signal ends this process alone, and the others measure on.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        for number in range(arguments.gpus):
            running.append(
                subprocess.Popen(
                    [*command, "--shard", f"{number}/{arguments.gpus}"],
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": devices[number]},
                )
            )
        codes = [one.wait() for one in running]
    finally:
        signal.signal(signal.SIGTERM, before)
        for one in running:
            if one.poll() is None:
                one.terminate()
        for one in running:
            one.wait()
    for number, code in enumerate(codes):
        if code < 0:
            print(
                f"error: process {number} of {arguments.gpus} was ended by signal {-code}: "
                "the same command goes on",
                file=sys.stderr,
            )
    return 1 if min(codes) < 0 else max(codes)


def _measure(
    arguments: argparse.Namespace, design: Design, gpu: Gpu, shard: tuple[int, int]
) -> str:
    folder = arguments.state / PASSES_FOLDER
    limit_s = _limit_s(arguments)
    machine = None
    if arguments.rehearse:
        assumed = Assumed() if arguments.open_s is None else Assumed(open=arguments.open_s)
        machine = Rehearsal(gpu, design.seed, sampling_ms=arguments.sampling_ms, assumed=assumed)

    def tell(study: RecordedStudy, taken: int) -> None:
        if taken and not arguments.quiet:
            print(f"{shard[0]}/{shard[1]}  {study.key}: {taken} passes", flush=True)

    done = record(
        design,
        gpu,
        folder,
        time_limit_s=limit_s - RESERVE_S,
        shard=shard,
        passes=arguments.passes,
        retry_failed=arguments.retry_failed,
        sampling_ms=arguments.sampling_ms,
        measuring=machine,
        clock=time.monotonic if machine is None else machine.clock,
        progress=tell,
    )
    stalled = "" if machine is None else f", {machine.stalled:.0f} s of them waiting for compilers"
    each = (
        f", {1e3 * done.pass_s:.0f} ms a pass and {1e3 * done.opening_s:.0f} ms the first of a "
        "study at the median"
        if done.pass_s is not None and done.opening_s is not None
        else ""
    )
    return (
        f"process {shard[0]} of {shard[1]}: {done.passes} passes in {done.studies} studies, "
        f"{done.failed} without a time, {done.seconds:.0f} s{stalled}{each}"
        f"{'; nothing is left' if done.finished else ''}"
    )


def _limit_s(arguments: argparse.Namespace) -> float:
    limit_s = parse_time_limit(arguments.time_limit)
    if not limit_s > 2 * RESERVE_S:
        raise ValueError(
            f"--time-limit {arguments.time_limit}: starting and writing take {2 * RESERVE_S:g} s: "
            "give more"
        )
    return limit_s


def _check(arguments: argparse.Namespace, gpu: Gpu) -> None:
    """Refuse what could not go on, before a minute goes into a design.

    Raises:
        ValueError: no such device, too little time, or nothing to export.
    """
    if arguments.export and not (arguments.state / DESIGN_FILE).exists():
        raise ValueError(f"{arguments.state}: nothing was measured yet: record first")
    if arguments.export or arguments.design:
        return
    _limit_s(arguments)
    if not arguments.rehearse:
        _check_device(gpu)


def _check_device(gpu: Gpu) -> None:
    name = visible_gpu()
    if name is None:
        raise ValueError("this host shows no GPU: rehearse with --rehearse")
    if not gpu.matches(name):
        raise ValueError(f"the device is {name!r}, not a {gpu.name}: name the right GPU with --gpu")


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.record_data", description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, default=Path("runs/data"))
    parser.add_argument("--output", type=Path, default=Path("data/h200"))
    parser.add_argument("--gpu", default="h200", help="name or file of the GPU")
    parser.add_argument("--gpus", type=int, default=1, help="of this host, a process each")
    parser.add_argument("--time-limit", default="8m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--retry-failed", action="store_true", help="and what timed out")
    parser.add_argument("--sampling-ms", type=float, default=SAMPLING_MS)
    parser.add_argument("--shapes", type=int, help="the first ones alone, when a design is made")
    parser.add_argument("--open-s", type=float, help="a rehearsal's seconds to open a problem")
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--design", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--record-only", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args(given)
    for name, least in (("gpus", 1), ("passes", 1), ("sampling_ms", 0.1), ("seed", 0)):
        if getattr(arguments, name) < least:
            text = name.replace("_", "-")
            parser.error(f"--{text} {getattr(arguments, name)}: must be at least {least}")
    if arguments.shapes is not None and arguments.shapes < 1:
        parser.error(f"--shapes {arguments.shapes}: must be at least 1")
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    given = sys.argv[1:] if given is None else list(given)
    arguments = _arguments(given)
    command = recorded("bench.record_data", given)
    try:
        gpu = load_gpu(arguments.gpu)
        _check(arguments, gpu)
        arguments.state.mkdir(parents=True, exist_ok=True)
        design = stored_design(arguments.state, gpu, arguments.seed, arguments.shapes)
        if arguments.design:
            print(_parts(design))
            return 0
        if arguments.shard is not None:
            number, _, count = arguments.shard.partition("/")
            print(_measure(arguments, design, gpu, (int(number), int(count))))
            return 0
        if not arguments.export:
            if arguments.gpus > 1:
                code = _children(arguments, given)
                if code:
                    return code
            else:
                print(_measure(arguments, design, gpu, (0, 1)))
        if arguments.record_only:
            return 0
        for line in export(arguments.state, arguments.output, design, command):
            print(line)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place, reason = error.filename or arguments.state, error.strerror or error
        print(
            f"error: {place}: {reason}: free space or check the path; what was recorded stays",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
