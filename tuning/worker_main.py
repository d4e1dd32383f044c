"""The measuring process: opens problems, checks and times configurations, one job at a time.

Started by :mod:`tuning.worker` as ``python -m tuning.worker_main FD PARENT_PID``.  Requests and
replies are JSON messages on the socket FD; standard output and error belong to candidate code.
"""

import ctypes
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tiles.kernels import Kernel, Limits, Status, Workload
from tiles.kernels.cuda.modules import BINARIES
from tiles.problems import parse_problem
from tuning.cache_folder import cache_folder
from tuning.channel import Channel
from tuning.energy_reading import energies_in_turns, energy_sensor, launch_energy
from tuning.environment import read_environment, sm_clock_mhz
from tuning.facts_cache import FactsCache
from tuning.family import family
from tuning.faults import classify, device_is_poisoned, ran_out_of_memory
from tuning.guard import guarded_samples, guarded_turns
from tuning.observers import Observer, open_observer
from tuning.process_memory import offer_to_oom_killer
from tuning.records import Measurement
from tuning.timer import open_timer
from tuning.timing import Timing, open_rivals

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1

Reply = Callable[[str, Mapping[str, Any]], None]


class _Bench:
    """The problem that is open now; consecutive jobs on one problem share its operands."""

    def __init__(self) -> None:
        self._key: tuple[str, str, str, int] | None = None
        self._workload: Workload | None = None
        self.kernel: Kernel | None = None
        self.observer: Observer | None = None

    def open(self, job: Mapping[str, Any]) -> tuple[Kernel, Workload]:
        key = (job["problem"], job["kernel"], job["device"], job["seed"])
        if key != self._key or self._workload is None or self.kernel is None:
            self.close()
            self.kernel = family(job["kernel"])
            self._workload = _workload(job)
            self._key = key
        return self.kernel, self._workload

    def close(self) -> None:
        """Drop the operands before the next problem's are made: both may not fit."""
        self._key = self._workload = self.kernel = None
        _free()


def _workload(job: Mapping[str, Any]) -> Workload:
    """A job's problem with operands for its family, whatever is open already."""
    return family(job["kernel"]).workload(
        parse_problem(job["problem"]), device=job["device"], seed=job["seed"]
    )


def _hello(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    """Import what the device needs, cap its memory and say what was found."""
    l2_bytes = 0
    if job["device"] == "cuda":
        import torch

        if not torch.cuda.is_available():
            built = torch.version.cuda is not None
            reply("done", {"missing": "torch finds no CUDA device", "built_for_it": built})
            return
        bench.observer = open_observer()
        l2_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
        torch.cuda.set_per_process_memory_fraction(job["device_share"])
        # CuPy reads it when its pool is made; a family that needs no CuPy does not import it.
        os.environ["CUPY_GPU_MEMORY_LIMIT"] = f"{100 * job['device_share']:g}%"
        if bench.observer is not None:
            torch.zeros(1, device="cuda")
            bench.observer.claim()
    environment = read_environment(job["device"]).to_dict()
    reply("done", {"environment": environment, "l2_bytes": l2_bytes})


def _free() -> None:
    """Give back what a failed configuration held."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _measure(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    kernel, workload = bench.open(job)
    config = kernel.config_type.from_dict(job["config"])
    reply("opened", {})
    accuracy = None if job["checked"] else workload.check(config)
    if accuracy is not None and not accuracy.ok:
        outcome = Measurement(
            status=Status.CORRECTNESS, simulated=False, reason=accuracy.reason, accuracy=accuracy
        )
        reply("done", {"measurement": outcome.to_dict()})
        return
    reply("checked", {})
    timer = open_timer(
        partial(workload.launchers, config),
        set_bytes=workload.set_bytes,
        l2_bytes=job["l2_bytes"],
        cache=job["cache"],
        device=job["device"],
        sampling_us=job["sampling_us"],
    )
    samples, conditions = guarded_samples(timer, bench.observer)
    timing = Timing.of(samples, timer.name)
    if not 0 < timing.time_us < math.inf:
        reason = f"timed at {timing.time_us:g} us: the clock saw no launch"
        outcome = Measurement(
            status=Status.RUNTIME, simulated=False, reason=reason, accuracy=accuracy
        )
        reply("done", {"measurement": outcome.to_dict()})
        return
    energy = None
    if job["energy"] and bench.observer is not None:
        energy = launch_energy(timer, timing.time_us, bench.observer)
        _synchronize()
    extra: dict[str, Any] = {}
    if job["environment"]:
        clock = None
        if job["device"] == "cuda":
            timer.load(0.1)
            time.sleep(0.02)  # into the load; NVML answers with a recent average
            clock = sm_clock_mhz()
            _synchronize()
        extra["environment"] = read_environment(job["device"], clock).to_dict()
    outcome = Measurement(
        status=Status.CORRECT,
        simulated=False,
        time_us=timing.time_us,
        samples_us=timing.samples_us,
        timing=timing.timing,
        accuracy=accuracy,
        conditions=conditions,
        energy=energy,
    )
    reply("done", {"measurement": outcome.to_dict(), **extra})


def _compare(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    kernel, workload = bench.open(job)
    names = job["kernels"] or [job["kernel"]] * len(job["configs"])
    opened = {job["kernel"]: (kernel, workload)}
    for name in names:
        if name not in opened:
            opened[name] = (family(name), _workload({**job, "kernel": name}))
    reply("opened", {})
    rivals = []
    for name, values in zip(names, job["configs"], strict=True):
        its_kernel, its_workload = opened[name]
        config = its_kernel.config_type.from_dict(values)
        rivals.append((partial(its_workload.launchers, config), its_workload.set_bytes))
    timers = open_rivals(
        rivals,
        l2_bytes=job["l2_bytes"],
        cache=job["cache"],
        device=job["device"],
    )
    found = guarded_turns(timers, bench.observer)
    timings = [
        Timing.of(samples, timer.name, conditions)
        for timer, (samples, conditions) in zip(timers, found, strict=True)
    ]
    if job["energy"] and bench.observer is not None:
        energies = energies_in_turns(timers, [t.time_us for t in timings], bench.observer)
        _synchronize()
        timings = [replace(t, energy=e) for t, e in zip(timings, energies, strict=True)]
    reply("done", {"timings": [asdict(timing) for timing in timings]})


def _compile(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    kernel, problem = family(job["kernel"]), parse_problem(job["problem"])
    config = kernel.config_type.from_dict(job["config"])
    limits = None if job["limits"] is None else Limits.from_dict(job["limits"])
    reply("opened", {})
    facts = None if limits is None else kernel.compile_offline(problem, config, limits)
    if facts is not None and limits is not None:
        FactsCache().put(kernel, problem, config, limits, facts)
    if facts is None:
        bench.open(job)[1].compile(config)
    reply("done", {"facts": None if facts is None else facts.to_dict()})


def _energy_sensor(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    reply("done", {"sensor": energy_sensor(bench.observer)})


def _microbenchmark(bench: _Bench, job: Mapping[str, Any], reply: Reply) -> None:
    """Run one microbenchmark's cases; its samples mean something to the parent alone."""
    from tuning.microbench.device import run_cases
    from tuning.microbench.sample import samples_to

    bench.close()  # its operands would share the device's memory
    reply("done", {"samples": samples_to(run_cases(job["name"], job["cases"]))})


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the parent is gone, even if a kernel hangs here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


_JOBS = {
    "hello": _hello,
    "measure": _measure,
    "compare": _compare,
    "compile": _compile,
    "energy_sensor": _energy_sensor,
    "microbenchmark": _microbenchmark,
}


def main(fd: int, parent: int) -> None:
    """Serve jobs until the parent closes the socket."""
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a sweep ends
    offer_to_oom_killer()
    os.environ.setdefault(BINARIES, str(cache_folder() / "binaries"))
    channel = Channel.inherited(fd)
    output = os.dup(1)
    bench = _Bench()
    while True:
        try:
            job = channel.receive()
        except EOFError:
            return
        for standard in (1, 2):  # the last candidate may have closed them
            os.dup2(output, standard)
        reply = partial(_reply, channel, job["number"])
        try:
            _JOBS[job["kind"]](bench, job, reply)
        # The boundary: whatever candidate code raises, an exit included, is its outcome.
        except BaseException as error:
            status, reason = classify(error)
            full = ran_out_of_memory(error)
            restart = full or device_is_poisoned()
            reply(
                "failed",
                {
                    "status": status.value,
                    "reason": reason,
                    "restart": restart,
                    "out_of_memory": full,
                },
            )
            if restart:
                os._exit(0)  # a poisoned context can hang in destructors
            del error  # its traceback holds operands
            _free()


def _reply(channel: Channel, number: int, phase: str, content: Mapping[str, Any]) -> None:
    channel.send({"job": number, "phase": phase, **content})


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
