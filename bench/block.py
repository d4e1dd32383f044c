"""A bf16 transformer block beside what ``predict --network`` says of it, forward and backward.

    python -m bench.block --commit HASH --output evidence/h200/block.json

Each case is a model's layer on a batch.  It is timed in torch, eager and compiled, launched from
the host and replayed as a CUDA graph: forward alone, and forward with backward.  Steps follow one
another without a flush (a block's tensors exceed the L2), after half a second of themselves; the
time is the median.  Peak memory is what a step allocates above what stands before it.

A variant that torch refuses says why.  The file is written anew after each case, and the same
command goes on.  Without a GPU, ``--device cpu`` times small cases with the host's clock.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.place import place
from sim import load_gpu
from sim.network import Phase, Span
from workbench.network_models import read_network
from workbench.networks import predict_network
from workbench.outfile import check_outfile, write_outfile
from workbench.sweepfile import parse_time_limit

if TYPE_CHECKING:
    import torch

__all__ = ["CASES", "SCHEMA", "VARIANTS", "Case", "main", "measure", "predict"]

SCHEMA = "tile-workbench/block/1"
MODELS = Path("examples/models")
VARIANTS = ("eager", "eager-graph", "compiled", "compiled-graph")
#: What is asked of the prediction of forward and backward together.
ASKED_ERROR = 0.10
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


CASES = (
    Case(model=str(MODELS / "gpt-4096-block.json"), sequences=8, length=1024),
    Case(model=str(MODELS / "gpt-2048-block.json"), sequences=16, length=1024),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=4, length=2048),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=1, length=4096),
    Case(model=str(MODELS / "llama-3-8b.json"), sequences=1, length=512),
)


def predict(case: Case, gpu: str) -> dict[str, Any]:
    """What the cost model says of one layer under bf16; every figure is predicted.

    Raises:
        ValueError: no such model or GPU, or it cannot be predicted.
    """
    report = predict_network(
        gpu=gpu,
        model=case.model,
        batch=case.sequences,
        sequence=case.length,
        training=True,
        recipes=["bf16"],
    )
    if not report.rows:
        raise ValueError(f"{case}: {report.refused[0].reason}")
    cost = report.rows[0].cost

    def layer(span: Span) -> dict[str, Any]:
        times = [time_us / report.layers for time_us in (span.time_us, span.low_us, span.high_us)]
        return {"predicted_us": times[0], "predicted_interval_us": times[1:]}

    return {
        "forward": layer(cost.span(Phase.FORWARD)),
        "forward_backward": layer(report.rows[0].passes),
        "predicted_step_bytes": cost.memory.activations // report.layers + cost.memory.working,
        "predicted_parts_us": {
            part.value: span.time_us / report.layers for part, span in cost.parts.items()
        },
    }


def measure(case: Case, device: str, variants: Sequence[str], clock: "Clock") -> dict[str, Any]:
    """Time one layer in torch: by phase and variant, with raw samples; what fails says why."""
    import torch

    from bench.torch_block import TransformerBlock

    network = read_network(case.model, case.length)
    block = TransformerBlock(network.block, case.length, dtype=torch.bfloat16, device=device)
    shape = (case.sequences, case.length, network.block.hidden)
    generator = torch.Generator(device=device).manual_seed(1)
    made = {"generator": generator, "dtype": torch.bfloat16, "device": device}
    x, gradient = torch.randn(shape, **made), torch.randn(shape, **made)
    x.requires_grad_()
    found: dict[str, Any] = {"forward": {}, "forward_backward": {}}
    for variant in variants:
        kind, _, graph = variant.partition("-")
        try:
            if graph and device == "cpu":
                raise RuntimeError("CUDA graphs need a CUDA device")
            model = torch.compile(block) if kind == "compiled" else block
            steps = _steps(model, x, gradient)
            for phase, step in steps.items():
                step()  # compiles, and makes the gradients that every later step adds to
                run = _captured(step) if graph else step
                found[phase][variant] = clock.time(run)
        # torch's compiler raises its own types below RuntimeError; out of memory is one, too.
        except (RuntimeError, ImportError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            for phase in found:
                found[phase].setdefault(variant, {"refused": reason})
    return found


def _steps(
    model: "Callable[[torch.Tensor], torch.Tensor]", x: "torch.Tensor", gradient: "torch.Tensor"
) -> dict[str, Step]:
    import torch

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def forward_backward() -> None:
        model(x).backward(gradient)

    return {"forward": forward, "forward_backward": forward_backward}


def _captured(step: Step) -> Step:
    """A CUDA graph of one step."""
    import torch

    stream = torch.cuda.Stream()
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
        peak = self._peak(step)
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

        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e3 for begin, end in itertools.pairwise(events)]

    def _peak(self, step: Step) -> int | None:
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


def row_of(case: Case, predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """One case of the record: predicted and measured apart, errors of the one by the other."""
    errors = {
        phase: {
            variant: predicted[phase]["predicted_us"] / one["measured_us"] - 1
            for variant, one in variants.items()
            if "measured_us" in one
        }
        for phase, variants in measured.items()
    }
    return {
        "case": str(case),
        "model": Path(case.model).name,
        "sequences": case.sequences,
        "length": case.length,
        "predicted": predicted,
        "measured": measured,
        "error_of_prediction": errors,
    }


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        for phase, variants in row["measured"].items():
            predicted = row["predicted"][phase]["predicted_us"] / 1e3
            for variant, one in variants.items():
                what = f"{row['case']}, {phase}, {variant}"
                if "refused" in one:
                    lines.append(f"{what}: refused: {one['refused']}")
                    continue
                error = row["error_of_prediction"][phase][variant]
                lines.append(
                    f"{what}: predicted {predicted:.3f} ms, measured {one['measured_us'] / 1e3:.3f}"
                    f" ms, error {100 * error:+.1f} % (asked {100 * ASKED_ERROR:.0f})"
                )
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    arguments = _arguments(sys.argv[1:] if given is None else given)
    try:
        end = time.monotonic() + parse_time_limit(arguments.time_limit)
        check_outfile(arguments.output, SCHEMA)
        cases = [_case(text) for text in arguments.case] or list(CASES)
        variants = arguments.variants or list(VARIANTS)
        if unknown := sorted(set(variants) - set(VARIANTS)):
            raise ValueError(f"variant {unknown[0]}: choose among {', '.join(VARIANTS)}")
        rows, sessions = _known(arguments.output, arguments.device)
        session = _session(arguments)
        sessions.append(session)
        done = {row["case"] for row in rows}
        clock = Clock(arguments.device, arguments.settle_s)
        for case in cases:
            if str(case) in done:
                continue
            if time.monotonic() >= end:
                print("the time is over: the same command goes on")
                break
            predicted = predict(case, arguments.gpu)
            measured = measure(case, arguments.device, variants, clock)
            rows.append(row_of(case, predicted, measured))
            content = {
                "schema": SCHEMA,
                "gpu": arguments.gpu,
                "device": arguments.device,
                "asked_error": ASKED_ERROR,
                "sessions": sessions,
                "rows": rows,
            }
            write_outfile(arguments.output, json.dumps(content, indent=1) + "\n")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in _lines(rows):
        print(line)
    return 0


def _case(text: str) -> Case:
    try:
        model, batch = text.rsplit(":", 1)
        sequences, length = batch.split("x")
        return Case(model=model, sequences=int(sequences), length=int(length))
    except ValueError:
        raise ValueError(f"--case {text}: write MODEL.json:SEQUENCESxLENGTH") from None


def _known(path: Path, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not path.exists() or not path.stat().st_size:
        return [], []
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("device") != device:
        raise ValueError(f"{path}: measured on {data.get('device')}, not {device}: choose another")
    return data["rows"], data["sessions"]


def _session(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.device == "cpu":
        from tuning.environment import read_environment

        environment = read_environment("cpu").to_dict()
    else:
        environment = place(load_gpu(arguments.gpu), "time small cases with --device cpu")
    return {
        "commit": arguments.commit,
        "command": "python -m bench.block",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment,
    }


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.block", description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", default="h200", help="whose prediction stands beside")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--case", action="append", default=[], metavar="MODEL.json:BxT")
    parser.add_argument("--variants", nargs="+", metavar="NAME")
    parser.add_argument("--settle-s", type=float, default=SETTLE_S)
    parser.add_argument("--time-limit", default="4m", help="begin no case after")
    parser.add_argument("--commit", default="", help="hash of the code that runs")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
