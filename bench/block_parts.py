"""A transformer block's parts as they are predicted, beside what profiles and timings hold.

    python -m bench.block_parts

Reads from ``evidence/h200`` the kernels of a step in bf16 and in codes
(``block-profile-bf16.json``, ``block-profile.json``), of attention alone (``attention.json``), of
forward passes of a block of Llama-3-8B's extents (``patch.json``), and whole passes of blocks of
two widths (``block.json``); nothing is measured here.  A profile's parts are sums over kernels,
predicted without their launches; what of a step belongs to no part (copies, memsets) is a row of
its own, predicted as nothing.  Prints a Markdown table.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import sim
from sim.network import Batch, NetworkCost, Part, Phase, network_cost
from sim.network.attention import Attention, AttentionKernel
from sim.network.attention_cost import attention_cost
from tiles.kernels import kernels
from tiles.recipes import recipe
from workbench.network_models import read_network
from workbench.pricer import Pricer

__all__ = ["KERNELS", "Compared", "compared", "main", "table"]

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "evidence" / "h200"
MODELS = ROOT / "examples" / "models"
GPT, NARROW, LLAMA = "gpt-4096-block", "gpt-2048-block", "llama-3-8b"
#: Which part a kernel of a profiled step belongs to, by its name: the first that matches.
KERNELS = (
    (Part.PRODUCTS, "^gemm_hopper$|^nvjet"),
    (Part.ATTENTION, "cudnn|pytorch_flash|CatArrayBatchedCopy"),
    (Part.NORMALIZATION, "^dataflow_rows$|^_norm_gradient|layer_norm|GammaBeta|reduce_kernel"),
    (Part.ACTIVATION, "^dataflow_blocks$|^_activation_backward|Gelu"),
    (Part.RESIDUAL, "^_residual_tiles$|CUDAFunctor_add"),
    (Part.QUANTIZE, "^_quantize_|^_dequantize_tiles$|^_transpose_codes$"),
)
#: Profiled steps: recipe and file.
_STEPS = (("bf16", "block-profile-bf16.json"), ("jetfire-128", "block-profile.json"))
#: Whole passes: model, sequences, their length.
_BATCHES = ((GPT, 8, 1024), (NARROW, 16, 1024))
#: Recipe and variant.  Codes as graphs: launched by the host, a step of the narrow block waits for
#: it, which nothing here predicts.
_VARIANTS = (
    ("bf16", "eager"),
    ("bf16", "eager-graph"),
    ("jetfire-128", "jetfire-128-graph"),
    ("jetfire-64", "jetfire-64-graph"),
    ("jetfire", "jetfire-graph"),
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
        """Of one layer, with backward where it is a GPT's."""
        key = (model, name, sequences, length)
        if key not in self._costs:
            found = network_cost(
                read_network(str(MODELS / f"{model}.json"), length),
                Batch(sequences=sequences, length=length),
                recipe(name),
                self.gpu,
                self.pricer.best,
                training=model != LLAMA,
            )
            assert isinstance(found, NetworkCost), found
            self._costs[key] = found
        return self._costs[key]

    def part(self, cost: NetworkCost, part: Part) -> float:
        """Of one layer of however many."""
        span = cost.parts.get(part)
        return 0.0 if span is None else span.time_us / cost.network.layers

    def attention(self, work: Attention) -> float:
        """Without its launches."""
        launches = len(work.launches) * self.gpu.graph_launch_us
        return float(attention_cost(work, self.gpu).time_us[0]) - launches


def _step(told: _Predicted, name: str, source: str) -> Iterator[Compared]:
    listed = _record(source)["kernels"]
    cost = told.cost(GPT, name, 8, 1024)
    spent: dict[Part | None, float] = {}
    for one in listed:
        part = next((part for part, names in KERNELS if re.search(names, one["kernel"])), None)
        spent[part] = spent.get(part, 0.0) + float(one["time_us"])
    for part, _ in KERNELS:
        if part in spent:
            yield Compared(
                part=f"{name}: {part.value}",
                source=source,
                measured_us=spent[part],
                predicted_us=told.part(cost, part),
            )
    yield Compared(
        part=f"{name}: no part", source=source, measured_us=spent.get(None, 0.0), predicted_us=0.0
    )


def _attention_alone(told: _Predicted) -> Iterator[Compared]:
    source = "attention.json"
    for row in _record(source)["rows"]:
        _, extents, *words = row["work"].split(":")
        sequences, heads, length, head_dim = map(int, extents.split("x"))
        for kernel in AttentionKernel:
            for phase in ("forward", "backward"):
                work = Attention(
                    sequences=sequences,
                    heads=heads,
                    kv_heads=row["kv_heads"],
                    length=length,
                    head_dim=head_dim,
                    causal="causal" in words,
                    backward=phase == "backward",
                    kernel=kernel,
                )
                yield Compared(
                    part=str(work),
                    source=source,
                    measured_us=sum(row[kernel.value][phase]["kernels"].values()),
                    predicted_us=told.attention(work),
                )


def _bf16_passes(told: _Predicted) -> Iterator[Compared]:
    """Forward alone, the medians of the profiles where a part was profiled more than once."""
    for case, sequences, length in (("4x2048", 4, 2048), ("1x512", 1, 512)):
        rows = [row["profiled"] for row in _record("patch.json")["rows"] if case in row["case"]]
        sides = [row[side] for row in rows for side in ("bf16", "patched")]
        cost = told.cost(LLAMA, "bf16", sequences, length)
        for part, pattern in (
            (Part.PRODUCTS, "^nvjet"),
            (Part.ATTENTION, r"^cudnn_\w*sdpa_sm90_flash_fprop"),
            (Part.ACTIVATION, r"^triton_poi\w*_silu"),
        ):
            yield Compared(
                part=f"bf16, forward: {part.value}",
                source=f"patch.json, {case}",
                measured_us=median(found for side in sides if (found := _of(side, pattern))),
                predicted_us=told.part(cost, part),
            )


def _whole(told: _Predicted) -> Iterator[Compared]:
    source = "block.json"
    cases = {row["case"]: row["measured"] for row in _record(source)["rows"]}
    for model, sequences, length in _BATCHES:
        case = f"{model} {sequences}x{length}"
        for name, variant in _VARIANTS:
            cost = told.cost(model, name, sequences, length)
            forward, backward = (cost.span(one).time_us for one in (Phase.FORWARD, Phase.BACKWARD))
            for phase, part, predicted_us in (
                ("forward", "forward", forward),
                ("forward_backward", "forward and backward", forward + backward),
            ):
                yield Compared(
                    part=f"{case}, {variant}: {part}",
                    source=source,
                    measured_us=cases[case][phase][variant]["measured_us"],
                    predicted_us=predicted_us,
                )


def compared() -> list[Compared]:
    """Parts of steps, then attention alone, forward parts, and whole passes."""
    told = _Predicted()
    steps = [one for name, source in _STEPS for one in _step(told, name, source)]
    return [*steps, *_attention_alone(told), *_bf16_passes(told), *_whole(told)]


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
