"""The page ``docs/papers.md``: what four papers claim, beside what was measured and predicted here.

python -m bench.papers > docs/papers.md

What was measured comes out of records in ``evidence/``; a claim that no record speaks to says so.
Outputs of the commands of the section "Predictions" are written anew by ``make docs``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.accuracy.coverage import CRITERION
from bench.accuracy.record import BASELINE, Row

__all__ = ["CLAIMS", "PAGE", "Claim", "page"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
ACCURACY, KERNELS = "evidence/cpu/accuracy.json", "evidence/h200/kernels.json"
BLOCK = "evidence/h200/block.json"
NOT_YET = "not measured yet"
_BLOCKS = "int8 32x32, int8 + scales out"


@cache
def _record(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return content


def _rows(recipe: str, families: tuple[str, ...]) -> list[Row]:
    """Rows of a recipe under the standard scheme, untuned, on pairs of some families."""
    found = (Row.from_dict(one) for one in _record(ACCURACY)["rows"])
    return [
        row
        for row in found
        if (row.recipe, row.scheme, row.tuned) == (recipe, "standard", False)
        and row.family in families
    ]


def _shares(*recipes: str, families: tuple[str, ...]) -> str:
    """Pairs within the criterion, of those that were measured under every one of the recipes."""
    found = {recipe: {row.pair: row for row in _rows(recipe, families)} for recipe in recipes}
    pairs = set.intersection(*(set(rows) for rows in found.values()))
    parts = [
        f"{recipe} {sum(rows[pair].within(CRITERION) for pair in pairs)} of {len(pairs)}"
        for recipe, rows in found.items()
    ]
    return f"{', '.join(parts)} ([accuracy][a])"


def _changes(*recipes: str) -> str:
    """Relative changes of the pretrained encoder's scores."""
    parts = []
    for recipe in recipes:
        rows = sorted(_rows(recipe, ("encoder",)), key=lambda row: row.pair)
        changes = [f"{100 * row.change:+.2f}" for row in rows if row.change is not None]
        parts.append(f"{recipe} {', '.join(changes)} %")
    pairs = sorted(row.pair for row in _rows(recipes[0], ("encoder",)))
    return f"change of the score on {', '.join(pairs)}: {'; '.join(parts)} ([accuracy][a])"


def _speed(row: str, peer: str) -> str:
    """Geometric mean, and the number of problems, of a line of the table of kernels."""
    (line,) = (
        one for one in _record(KERNELS)["table"] if (one["row"], one["against"]) == (row, peer)
    )
    return f"{line['geomean']:.2f} times as fast, geometric mean over {line['problems']} products"


def _block(figure: Callable[[dict[str, Any]], float], unit: str) -> str:
    """Eager bf16's figure of a block's training step over that of ours, by side of a block."""
    (row,) = _record(BLOCK)["rows"]
    variants = row["measured"]["forward_backward"]
    eager = figure(variants["eager"])
    parts = [
        f"blocks of {side}: {eager / figure(variants[name]):.2f} times {unit}"
        for side, name in ((32, "jetfire"), (128, "jetfire-128"))
    ]
    return f"{row['case']}, H200, eager bf16 beside: {', '.join(parts)} ([block][b])"


ALL = ("encoder", "text", "vision", "table")
LANGUAGE = ("encoder", "text")
MX = ("mxint8", "mxfp8-e4m3", "mxfp6-e2m3", "mxfp4")
FP8 = ("fp8-ptq-e4m3", "fp8-ptq-e3m4", "fp8-ptq-e5m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of a paper."""

    text: str
    place: str  #: in the paper
    measured: Callable[[], str] | None  #: out of a record; ``None``: not measured yet
    prediction: str  #: which commands below say what is expected; "-": none does


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A paper and its claims."""

    name: str
    where: str
    claims: tuple[Claim, ...]


CLAIMS = (
    Paper(
        name="Jetfire",
        where="arXiv 2403.12422, ICML 2024",
        claims=(
            Claim(
                text="transformers trained with an INT8 data flow and 32x32 blocks end as accurate "
                "as under FP16",
                place="abstract",
                measured=None,
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="more accurate than earlier INT8 training, whose scales belong to tensors, "
                "tokens or channels",
                place="abstract",
                measured=None,
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="a transformer block trains 1.42 times as fast as under FP16, end to end",
                place="abstract",
                measured=lambda: (
                    f"{_block(lambda one: one['measured_us'], 'as fast')}. Its products alone, "
                    "H200, against `torch.matmul` in bf16: "
                    f"{_speed(_BLOCKS, 'torch.matmul bf16')}; against the paper's released "
                    f"kernels: {_speed(_BLOCKS, 'Jetfire as released, recorded')} ([kernels][k])"
                ),
                prediction="[block](#a-training-step)",
            ),
            Claim(
                text="a block takes 1.49 times less memory than under FP16",
                place="abstract",
                measured=lambda: _block(
                    lambda one: one["peak_above_gradients_bytes"],
                    "less above weights and gradients",
                ),
                prediction="[block](#a-training-step), `x bf16 per step`",
            ),
            Claim(
                text="less memory traffic than quantising, multiplying and dequantising around "
                "every operator",
                place="abstract",
                measured=None,
                prediction="[block](#a-training-step), norm, activation, residual and quantize",
            ),
        ),
    ),
    Paper(
        name="FP8-BERT",
        where="arXiv 2312.05725",
        claims=(
            Claim(
                text="FP8 after training loses significantly less than INT8 on GLUE and SQuAD 1.1",
                place="abstract",
                measured=lambda: _changes("fp8-bert", "int8-ptq"),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="FP8 after training reaches full precision, without retraining",
                place="abstract",
                measured=lambda: _shares("fp8-bert", families=LANGUAGE),
                prediction="[error](#error-of-formats)",
            ),
        ),
    ),
    Paper(
        name="Efficient Post-training Quantization with FP8 Formats",
        where="arXiv 2309.14592, MLSys 2024",
        claims=(
            Claim(
                text="92.64 % of the workloads lose at most 1 % under FP8, 65.87 % under INT8",
                place="abstract",
                measured=lambda: _shares(*FP8, "int8-ptq", families=ALL),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="language: 96.32 % under E4M3, 92.11 % under E3M4; E4M3 suits it best",
                place="abstract",
                measured=lambda: _shares(*FP8[:2], "int8-ptq", families=LANGUAGE),
                prediction="[error](#error-of-formats), outliers",
            ),
            Claim(
                text="vision: 78.95 % under E3M4, 73.68 % under E4M3; E3M4 suits it best",
                place="abstract",
                measured=lambda: _shares(*FP8[:2], "int8-ptq", families=("vision",)),
                prediction="[error](#error-of-formats), normal",
            ),
            Claim(
                text="E5M2 needs no calibration: a direct cast, for what it covers",
                place="section 3.1, standard scheme",
                measured=lambda: _shares("fp8-ptq-e5m2", families=ALL),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="E4M3 activations with E3M4 weights help where one format does not",
                place="section 3.2, extended scheme",
                measured=lambda: _shares(
                    "fp8-ptq-mixed", *FP8[:2], families=("text", "vision", "table")
                ),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="FP8 serves more operators than INT8: LayerNorm, BatchNorm, sums and products",
                place="section 3.2, extended scheme",
                measured=None,
                prediction="-",
            ),
            Claim(
                text="leaving the first and the last operator in high precision helps vision",
                place="summary",
                measured=None,
                prediction="-",
            ),
            Claim(
                text="scales of each call's data help where calibrated ones do not",
                place="summary",
                measured=None,
                prediction="-",
            ),
        ),
    ),
    Paper(
        name="Microscaling Data Formats for Deep Learning",
        where="arXiv 2310.10537; OCP MX v1.0",
        claims=(
            Claim(
                text="MX formats replace FP32 in inference with little friction, on more than two "
                "dozen benchmarks",
                place="abstract",
                measured=lambda: _shares(*MX, families=ALL),
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="they do so in training too",
                place="abstract",
                measured=None,
                prediction="[error](#error-of-formats)",
            ),
            Claim(
                text="generative language models train with weights, activations and gradients "
                "below 8 bits, with minimal loss and an unchanged recipe",
                place="abstract",
                measured=None,
                prediction="[error](#error-of-formats)",
            ),
        ),
    ),
)

HEAD = """\
# What four papers claim, and what was found here

Made by `python -m bench.papers` out of the records that it links; do not edit it here. Claims are
in our words, from abstracts and summaries: the papers' own tables were not at hand. What was
measured here are other models and other GPUs than theirs, so it speaks to a claim and does not
repeat it. *n of m* are pairs of a model and a task that lose at most 1 % of their score.
"""

TAIL = """\
## Records

- [accuracy][a]: {pairs} of the pairs of [accuracy.md](accuracy.md), what they are and what they are not; scheme `standard`, nothing tuned. The
  encoder's are four of 17, chosen for the time that they take before any was quantised:
{commands}
- [kernels][k]: one H200, [the runs](../evidence/h200/README.md#the-table), [the table](kernels.md#the-table); above 1 ours is faster.
  `python -m bench.kernels FILE...`; Jetfire's released kernels were timed in another run.

- [block][b]: one GPT layer of 4096 features forward and backward, [the run](../evidence/h200/README.md#a-transformer-block).
  `python -m bench.block --variants eager jetfire-128 jetfire`

## Predictions

Predicted, not measured; written anew by `make docs`.

### A training step

One GPT layer of 4096 features on 8 sequences of 1024 tokens, beside bf16, not FP16:

```console
$ workbench predict --model examples/models/gpt-4096-block.json --training --batch 8 --sequence 1024 --recipe bf16 --recipe jetfire
```

### Error of formats

Signal to noise of a product, on normal data and under outliers, and the time that a product of this size takes:

```console
$ workbench predict --shape 4096x4096x4096 --recipe bf16 --recipe int8-ptq --recipe int8-row --recipe fp8-bert --recipe fp8-ptq-e4m3 --recipe fp8-ptq-e3m4 --recipe fp8-ptq-e5m2 --recipe fp8-ptq-mixed --recipe jetfire --recipe mxint8 --recipe mxfp8-e4m3 --recipe mxfp6-e2m3 --recipe mxfp4
```

[a]: ../evidence/cpu/accuracy.json
[k]: ../evidence/h200/kernels.json
[b]: ../evidence/h200/block.json
"""  # noqa: E501  # what the page has on one line


def _table(paper: Paper) -> str:
    lines = [
        f"## {paper.name}",
        "",
        f"{paper.where}.",
        "",
        "| the paper's claim | where | measured here | predicted here |",
        "|---|---|---|---|",
    ]
    for one in paper.claims:
        measured = NOT_YET if one.measured is None else one.measured()
        lines.append(f"| {one.text} | {one.place} | {measured} | {one.prediction} |")
    return "\n".join(lines)


def _commands() -> str:
    sessions = {row["session"] for row in _record(ACCURACY)["rows"] if row["recipe"] != BASELINE}
    found = _record(ACCURACY)["sessions"]
    return "\n".join(f"  `{found[index]['command']}`" for index in sorted(sessions))


def page(before: str = "") -> str:
    """The whole page, with a newline at its end.

    Args:
        before: the page as it stands, whose outputs of commands are kept.
    """
    pairs = len({row["pair"] for row in _record(ACCURACY)["rows"]})
    tail = TAIL.format(pairs=pairs, commands=_commands())
    text = "\n\n".join([HEAD.strip(), *map(_table, CLAIMS), tail.strip()]) + "\n"
    for fence in re.findall(r"^```console\n\$ .*?^```$", before, re.M | re.S):
        command, *output = fence.splitlines()[1:]
        text = text.replace(f"{command}\n```", "\n".join([command, *output]))
    return text


if __name__ == "__main__":
    print(page(PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""), end="")
