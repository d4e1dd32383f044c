"""Timing one transformer layer in torch, forward and with backward, in several variants."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.coded_block import CODED as BLOCKS
from bench.coded_block import coded_block
from sim.network import Network
from workbench.network_models import read_network

if TYPE_CHECKING:
    import torch

__all__ = ["CODED", "FEWEST", "SETTLE_S", "VARIANTS", "Case", "Clock", "block_step", "measure"]

#: Torch's block in bf16.
VARIANTS = ("eager", "eager-graph", "compiled", "compiled-graph")
#: Ours, whose activations travel in codes.
CODED = tuple(f"{block}{end}" for block in BLOCKS for end in ("", "-graph"))
SETTLE_S = 0.5
SAMPLES, FEWEST = 50, 5
#: A step that takes longer is not sampled fifty times.
SAMPLING_S = 2.0

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One layer of a model on a batch."""

    model: str  #: path of a ``config.json``
    sequences: int
    length: int

    def __str__(self) -> str:
        return f"{Path(self.model).stem} {self.sequences}x{self.length}"


def measure(case: Case, device: str, variants: Sequence[str], clock: "Clock") -> dict[str, Any]:
    """Time one layer in torch: by phase and variant, with raw samples; what fails says why."""
    import torch

    # Shapes of an earlier case would make this one's compiled with symbolic extents, or not at all.
    torch.compiler.reset()
    network = read_network(case.model, case.length)
    x, gradient = _operands(case, network, device)
    found: dict[str, Any] = {"forward": {}, "forward_backward": {}}
    for variant in variants:
        kind, graph = variant.removesuffix("-graph"), variant.endswith("-graph")
        try:
            if graph and device == "cpu":
                raise RuntimeError("CUDA graphs need a CUDA device")
            block = _block(case, network, kind, device)
            model = torch.compile(block, dynamic=False) if kind == "compiled" else block
            parameters = list(block.parameters())
            steps = _steps(model, x, gradient, parameters)
            for phase, step in steps.items():
                step()  # compiles
                run = _captured(step) if graph else step
                found[phase][variant] = clock.time(run)
            if not graph:
                above = _above_gradients(model, x, gradient, parameters, clock)
                found["forward_backward"][variant]["peak_above_gradients_bytes"] = above
        # torch's compiler raises its own types below RuntimeError; out of memory is one, too.  Ours
        # refuses a width, or a device without kernels.
        except (RuntimeError, ImportError, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            for phase in found:
                found[phase].setdefault(variant, {"refused": reason})
    return found


def block_step(case: Case, device: str, kind: str) -> Step:
    """Forward and backward of one block, launched from the host.

    Args:
        kind: "eager", or one of ``bench.coded_block.CODED``.
    Raises:
        RuntimeError, ValueError: there is no such block, model or device.
    """
    network = read_network(case.model, case.length)
    block = _block(case, network, kind, device)
    x, gradient = _operands(case, network, device)
    return _steps(block, x, gradient, list(block.parameters()))["forward_backward"]


def _operands(case: Case, network: Network, device: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """Input and output's gradient, normal in bf16."""
    import torch

    shape = (case.sequences, case.length, network.block.hidden)
    generator = torch.Generator(device=device).manual_seed(1)
    made: dict[str, Any] = {"generator": generator, "dtype": torch.bfloat16, "device": device}
    x, gradient = torch.randn(shape, **made), torch.randn(shape, **made)
    return x.requires_grad_(), gradient


def _block(case: Case, network: Network, kind: str, device: str) -> "torch.nn.Module":
    import torch

    from bench.torch_block import TransformerBlock

    if kind in BLOCKS:
        return coded_block(network.block, kind, device=device)
    return TransformerBlock(network.block, case.length, dtype=torch.bfloat16, device=device)


def _steps(
    model: "Callable[[torch.Tensor], torch.Tensor]",
    x: "torch.Tensor",
    gradient: "torch.Tensor",
    parameters: "list[torch.nn.Parameter]",
) -> dict[str, Step]:
    import torch

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def forward_backward() -> None:
        # Gradients by value: `backward` would read and add those of the step before.
        torch.autograd.grad(model(x), [x, *parameters], gradient)

    return {"forward": forward, "forward_backward": forward_backward}


def _above_gradients(
    model: "Callable[[torch.Tensor], torch.Tensor]",
    x: "torch.Tensor",
    gradient: "torch.Tensor",
    parameters: "list[torch.nn.Parameter]",
    clock: "Clock",
) -> int | None:
    """Most bytes that a step allocates where all gradients stand there before, and are added to."""
    import torch

    leaves = [x, *parameters]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    found = clock.peak(lambda: torch.autograd.backward(model(x), gradient))
    for leaf in leaves:
        leaf.grad = None
    return found


def _captured(step: Step) -> Step:
    """A CUDA graph of one step."""
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Clock:
    """Times steps one after another: device events, or the host's clock on a CPU."""

    def __init__(self, device: str, settle_s: float = SETTLE_S) -> None:
        self._cuda = device != "cpu"
        self._settle_s = settle_s

    def time(self, step: Step) -> dict[str, Any]:
        """Median, raw samples in microseconds, and the most memory that a step allocates."""
        peak = self.peak(step)
        until = time.monotonic() + self._settle_s
        while True:
            (estimate_us,) = self._sample(step, 1)
            if time.monotonic() >= until:
                break
        count = max(FEWEST, min(SAMPLES, round(SAMPLING_S * 1e6 / estimate_us)))
        samples = self._sample(step, count)
        return {
            "measured_us": statistics.median(samples),
            "samples_us": [round(one, 1) for one in samples],
            "peak_bytes": peak,
        }

    def _sample(self, step: Step, count: int) -> list[float]:
        if not self._cuda:
            samples = []
            for _ in range(count):
                begin = time.perf_counter_ns()
                step()
                samples.append((time.perf_counter_ns() - begin) / 1e3)
            return samples
        import torch

        events = [
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch
            for _ in range(count + 1)
        ]
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e3 for begin, end in itertools.pairwise(events)]

    def peak(self, step: Step) -> int | None:
        """Bytes; None where nothing counts them, and of a graph only what it allocates anew."""
        if not self._cuda:
            return None
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
