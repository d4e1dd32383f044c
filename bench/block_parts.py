"""A transformer block's parts as they are predicted, beside what profiles and timings hold.

    python -m bench.block_parts

Reads from ``evidence/h200`` a step of ``jetfire-128`` (``block-profile.json``), forward passes of
a block of Llama-3-8B's extents (``patch.json``) and whole steps (``block.json``,
``block-later.json``); nothing is measured here.  Predicted times of single kernels are without
their launch, as profiles have them.  Prints a Markdown table.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import sim
from sim.network import Batch, NetworkCost, Part, Phase, network_cost
from sim.network.attention import Attention, AttentionKernel
from sim.network.attention_cost import attention_cost
from tiles.kernels import kernel, kernels
from tiles.kernels.table import ConfigTable
from tiles.problems import parse_problem
from tiles.recipes import recipe
from workbench.network_models import read_network
from workbench.pricer import Pricer

__all__ = ["LAUNCHES", "Compared", "compared", "main", "table"]

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "evidence" / "h200"
MODELS = ROOT / "examples" / "models"
GPT, LLAMA = "gpt-4096-block", "llama-3-8b"
#: Launches of the profiled step that the layers choose a configuration for, by their kernel:
#: family, problem, count.  A layer takes a family's default, which is not the fastest one.
LAUNCHES: dict[str, list[tuple[str, str, int]]] = {
    "_quantize_tiles": [
        ("triton_quantize_tiles", "quantize:12288x4096:int8.b128x128:bf16", 1),  # weights
        ("triton_quantize_tiles", "quantize:4096x4096:int8.b128x128:bf16", 1),
        ("triton_quantize_tiles", "quantize:16384x4096:int8.b128x128:bf16", 1),
        ("triton_quantize_tiles", "quantize:4096x16384:int8.b128x128:bf16", 1),
        ("triton_quantize_tiles", "quantize:8192x12288:int8.b128x128:bf16", 1),  # activations
        ("triton_quantize_tiles", "quantize:8192x16384:int8.b128x128:bf16", 1),
        ("triton_quantize_tiles", "quantize:8192x4096:int8.b128x128:bf16", 3),
        ("triton_quantize_tiles", "quantize:8192x4096:int8.b128x128+sr:bf16", 2),  # gradients
        ("triton_quantize_tiles", "quantize:8192x4096:int8.b128x128+sr:bf16:transposed", 2),
    ],
    "_dequantize_tiles": [
        ("triton_dequantize", "dequantize:8192x12288:int8.b128x128:bf16", 2),
        ("triton_dequantize", "dequantize:8192x4096:int8.b128x128:bf16", 3),
    ],
    "_transpose_codes": [
        ("triton_transpose", "transpose:8192x16384:int8", 2),
        ("triton_transpose", "transpose:8192x4096:int8", 3),
    ],
    "dataflow_rows": [
        ("cuda_dataflow_rows", "dataflow:8192x4096:layernorm:int8.b128x128", 2),
        ("cuda_dataflow_rows", "dataflow:8192x4096:layernorm-bwd:int8.b128x128+sr", 2),
    ],
}
_PASSES = {
    "_quantize_tiles": "quantising, one configuration for all",
    "_dequantize_tiles": "dequantising",
    "_transpose_codes": "transposing codes",
    "dataflow_rows": "norms on codes, both ways",
}
#: Whole passes: recipe, variant, file.
_WHOLE = (
    ("bf16", "eager", "block.json"),
    ("bf16", "eager", "block-later.json"),
    ("jetfire-128", "jetfire-128", "block-later.json"),
    ("jetfire-128", "jetfire-128-graph", "block-later.json"),
    ("jetfire-64", "jetfire-64", "block.json"),
    ("jetfire", "jetfire", "block.json"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A part: what it is, where it was measured, both times."""

    part: str
    source: str
    measured_us: float
    predicted_us: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted_us / self.measured_us - 1


def _record(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EVIDENCE / name).read_text(encoding="utf-8"))
    return content


def _of(listed: Sequence[dict[str, Any]], pattern: str) -> float:
    """Microseconds of the kernels whose names match."""
    return sum(float(one["time_us"]) for one in listed if re.search(pattern, one["kernel"]))


class _Predicted:
    """Prices on the H200 as its file has it."""

    def __init__(self) -> None:
        self.gpu = sim.load_gpu("h200")
        self.pricer = Pricer(self.gpu, list(kernels().values()))
        self._costs: dict[tuple[str, str, int, int], NetworkCost] = {}

    def cost(self, model: str, name: str, sequences: int, length: int) -> NetworkCost:
        """Of one layer, with backward where it is the GPT's."""
        key = (model, name, sequences, length)
        if key not in self._costs:
            found = network_cost(
                read_network(str(MODELS / f"{model}.json"), length),
                Batch(sequences=sequences, length=length),
                recipe(name),
                self.gpu,
                self.pricer.best,
                training=model == GPT,
            )
            assert isinstance(found, NetworkCost), found
            self._costs[key] = found
        return self._costs[key]

    def part(self, cost: NetworkCost, part: Part) -> float:
        """Of one layer of however many."""
        return cost.parts[part].time_us / cost.network.layers

    def attention(
        self, cost: NetworkCost, phase: Phase, by: AttentionKernel = AttentionKernel.TORCH
    ) -> float:
        (work,) = [
            one.operator.work
            for one in cost.operators
            if isinstance(one.operator.work, Attention) and one.operator.phase is phase
        ]
        launches = len(work.launches) * self.gpu.graph_launch_us
        return float(attention_cost(replace(work, kernel=by), self.gpu).time_us[0]) - launches

    def as_recorded(self, cost: NetworkCost, phase: Phase) -> float:
        """A pass of layers in codes: theirs called FlashAttention-2 by name when it was timed."""
        flash, torch_s = (
            self.attention(cost, phase, by)
            for by in (AttentionKernel.FLASH_2, AttentionKernel.TORCH)
        )
        return cost.span(phase).time_us + (flash - torch_s) * cost.network.layers

    def launch(self, family: str, text: str) -> float:
        """A family's default configuration."""
        problem, one = parse_problem(text), kernel(family)
        configs = ConfigTable.of([one.default(problem, self.gpu.limits)])
        found = sim.price(problem, one, configs, self.gpu).best()
        return found.time_us - self.gpu.graph_launch_us


def _int8_step(told: _Predicted) -> Iterator[Compared]:
    listed, source = _record("block-profile.json")["kernels"], "block-profile.json"
    cost = told.cost(GPT, "jetfire-128", 8, 1024)

    def row(part: str, pattern: str, predicted_us: float) -> Compared:
        return Compared(
            part=part, source=source, measured_us=_of(listed, pattern), predicted_us=predicted_us
        )

    yield row("12 products, INT8", "^gemm_hopper$", told.part(cost, Part.PRODUCTS))
    forward, backward = (
        told.attention(cost, one, AttentionKernel.FLASH_2)
        for one in (Phase.FORWARD, Phase.BACKWARD)
    )
    yield row("FlashAttention-2, forward", "flash_fwd_kernel", forward)
    yield row("FlashAttention-2, backward", "flash_bwd", backward)
    for name, part in _PASSES.items():
        predicted = sum(count * told.launch(one, text) for one, text, count in LAUNCHES[name])
        yield row(part, f"^{name}$", predicted)
    plain = told.cost(GPT, "bf16", 8, 1024)
    yield row("4 residual sums in bf16", "CUDAFunctor_add", told.part(plain, Part.RESIDUAL))


def _bf16_passes(told: _Predicted) -> Iterator[Compared]:
    """Forward alone, the medians of the profiles where a part was profiled more than once."""
    for case, sequences, length in (("4x2048", 4, 2048), ("1x512", 1, 512)):
        rows = [row["profiled"] for row in _record("patch.json")["rows"] if case in row["case"]]
        sides = [row[side] for row in rows for side in ("bf16", "patched")]
        cost = told.cost(LLAMA, "bf16", sequences, length)

        def row(
            part: str,
            pattern: str,
            predicted_us: float,
            case: str = case,
            sides: Sequence[list[dict[str, Any]]] = sides,
        ) -> Compared:
            taken = [found for side in sides if (found := _of(side, pattern))]
            return Compared(
                part=part,
                source=f"patch.json, {case}",
                measured_us=median(taken),
                predicted_us=predicted_us,
            )

        yield row("4 products, bf16", "^nvjet", told.part(cost, Part.PRODUCTS))
        forward = told.attention(cost, Phase.FORWARD)
        yield row("cuDNN's attention, forward", r"^cudnn_\w*sdpa_sm90_flash_fprop", forward)
        activation = told.part(cost, Part.ACTIVATION)
        yield row("gated activation", r"^triton_poi\w*_silu", activation)


def compared() -> list[Compared]:
    """Parts that the evidence has alone, then whole passes."""
    told = _Predicted()
    rows = [*_int8_step(told), *_bf16_passes(told)]
    for name, variant, file in _WHOLE:
        (row,) = _record(file)["rows"]
        cost = told.cost(GPT, name, 8, 1024)
        forward, backward = (
            cost.span(one).time_us if name == "bf16" else told.as_recorded(cost, one)
            for one in (Phase.FORWARD, Phase.BACKWARD)
        )
        for phase, part, predicted_us in (
            ("forward", "forward", forward),
            ("forward_backward", "forward and backward", forward + backward),
        ):
            rows.append(
                Compared(
                    part=f"{variant}, {part}",
                    source=file,
                    measured_us=row["measured"][phase][variant]["measured_us"],
                    predicted_us=predicted_us,
                )
            )
    return rows


def table(rows: Sequence[Compared]) -> list[str]:
    """Lines of Markdown; measured and predicted have columns of their own."""
    lines = ["| part | measured in | measured us | predicted us | error, % |"]
    lines.append("|---|---|---:|---:|---:|")
    lines += [
        f"| {one.part} | {one.source} | {one.measured_us:.0f} | {one.predicted_us:.0f} | "
        f"{100 * one.error:+.0f} |"
        for one in rows
    ]
    return lines


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.block_parts", description=__doc__)
    parser.parse_args(given)
    print("\n".join(table(compared())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
