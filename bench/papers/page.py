"""The page ``docs/papers.md``, made of claims and figures."""

import re

from bench.accuracy.record import BASELINE
from bench.papers.claims import CLAIMS, Paper
from bench.papers.figures import (
    ACCURACY,
    BLOCK,
    ON_KERNELS,
    ROOT,
    SCHEMES,
    TRAINING,
    accuracy_commands,
    commands,
    record,
)

__all__ = ["NOT_YET", "PAGE", "page"]

PAGE = ROOT / "docs" / "papers.md"
NOT_YET = "not measured yet"

HEAD = """\
# What four papers claim, and what was found here

Made by `python -m bench.papers` out of the records that it links; do not edit it here. Claims are
in our words, from abstracts and summaries: the papers' own tables were not at hand. What was
measured here are other models and other GPUs than theirs, so it speaks to a claim and does not
repeat it. *n of m* are pairs of a model and a task that lose at most 1 % of their score. Each
figure with its place in a record, and the commands, lie in
[jetfire](../evidence/h200/jetfire.json),
[ptq](../evidence/h200/ptq.json) and [mx](../evidence/h200/mx.json).
"""

TAIL = """\
## Records

- [accuracy][a]: {pairs} of the pairs of [accuracy.md](accuracy.md), what they are and what they are not; scheme `standard`, nothing tuned. The
  encoder's are four of 17, chosen for the time that they take before any was quantised:
{commands}
- [schemes][s]: some of these pairs under schemes that differ in one thing from `standard`, *a and b* in the order in which they are named.
  `extended` quantises LayerNorm, BatchNorm, sums and products of two tensors too, and renews batch statistics; `standard-whole` has no operators
  left out, the first convolution and the last linear layer included (the same as `standard` for models without convolutions);
  `standard-dynamic` scales by each call's data. *Apart* are pairs that one of the two loses, and the other does not:
{schemes}
- [kernels][k]: one H200, [the runs](../evidence/h200/README.md#the-table), [the table](kernels.md#the-table); above 1 ours is faster.
  `python -m bench.kernels FILE...`; Jetfire's released kernels were timed in another run.
- [block][b]: GPT layers of 4096 and 2048 features forward and backward, beside the better of torch's steps launched by the host (eager) and
  replayed as a CUDA graph (eager-graph), [the run](../evidence/h200/README.md#transformer-blocks-of-two-widths).
{block}
- [training][t]: a GPT under ten recipes from the same weights on the same batches, [the run and its table](../evidence/h200/README.md#a-gpt-trained-under-ten-recipes).
{training}

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
[s]: ../evidence/cpu/accuracy-schemes.json
[k]: ../evidence/h200/kernels.json
[b]: ../evidence/h200/block.json
[t]: ../evidence/h200/train-gpt.json
"""  # noqa: E501  # what the page has on one line

ON_GPU = """
- [on kernels][g]: the encoder's retrieval on one H200, its linear layers on kernels, its weights
  rounded to fp16 before ([accuracy.md](accuracy.md#on-kernels)).
"""


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
        measured = NOT_YET if one.measured is None else one.measured().text
        lines.append(f"| {one.text} | {one.place} | {measured} | {one.prediction} |")
    return "\n".join(lines)


def _lines(found: list[str]) -> str:
    return "\n".join(f"  `{command}`" for command in found)


def page(before: str = "") -> str:
    """The whole page, with a newline at its end.

    Args:
        before: the page as it stands, whose outputs of commands are kept.
    """
    pairs = len({row["pair"] for row in record(ACCURACY)["rows"]})
    tail = TAIL.format(
        pairs=pairs,
        commands=_lines(accuracy_commands()),
        schemes=_lines(accuracy_commands(SCHEMES)),
        block=_lines(commands(BLOCK)),
        training=_lines(commands(TRAINING)),
    )
    if (ROOT / ON_KERNELS).is_file():
        told = _lines(commands(ON_KERNELS, lambda row: row["recipe"] != BASELINE))
        tail = tail.replace("## Predictions", f"{ON_GPU.strip()}\n{told}\n\n## Predictions")
        tail += f"[g]: ../{ON_KERNELS}\n"
    text = "\n\n".join([HEAD.strip(), *map(_table, CLAIMS), tail.strip()]) + "\n"
    for fence in re.findall(r"^```console\n\$ .*?^```$", before, re.M | re.S):
        command, *output = fence.splitlines()[1:]
        text = text.replace(f"{command}\n```", "\n".join([command, *output]))
    return text
