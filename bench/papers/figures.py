"""Figures that records in ``evidence/`` hold, with the places in the files that each comes from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.accuracy.coverage import CRITERION
from bench.accuracy.record import BASELINE, Row

__all__ = [
    "ACCURACY",
    "BLOCK",
    "KERNELS",
    "ON_KERNELS",
    "ROOT",
    "SCHEMES",
    "TRAINING",
    "Figure",
    "Measured",
    "accuracy_commands",
    "block",
    "changes",
    "commands",
    "joined",
    "kernel_scores",
    "record",
    "rows_of",
    "shares",
    "speed",
]

ROOT = Path(__file__).parents[2]
ACCURACY, KERNELS = "evidence/cpu/accuracy.json", "evidence/h200/kernels.json"
SCHEMES = "evidence/cpu/accuracy-schemes.json"
BLOCK, TRAINING = "evidence/h200/block.json", "evidence/h200/train-gpt.json"
#: Variants of the block: torch's, ours by side of a block, and how a step runs, by the name's end.
BF16, SIDES = ("eager", "eager-graph"), {32: "jetfire", 64: "jetfire-64", 128: "jetfire-128"}
RUNS = {"": "launched by the host", "-graph": "replayed as a CUDA graph"}
#: Quantised models on a GPU's kernels; measured by ``bench.accuracy --carried``.
ON_KERNELS = "evidence/h200/accuracy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that was measured, and what it was made of."""

    what: str
    value: float
    source: str  #: the record, from the root of the repository
    at: tuple[str, ...]  #: JSON pointers (RFC 6901) into it
    #: How ``value`` follows from what stands there: ``value``; ``ratio``, the first by the second;
    #: ``mean``; ``paired``, the mean of a / b - 1 over pairs a, b; ``within``, how many lose at
    #: most 1 %.
    rule: str
    error: float | None = None  #: standard error, of ``paired``


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a claim's cell says, and the figures in it."""

    text: str
    figures: tuple[Figure, ...]


@cache
def record(path: str) -> dict[str, Any]:
    """A file of evidence."""
    content: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return content


def joined(*parts: Measured) -> Measured:
    """One cell of several."""
    figures = tuple(figure for part in parts for figure in part.figures)
    return Measured(text=". ".join(part.text for part in parts), figures=figures)


def rows_of(
    path: str, recipe: str, families: tuple[str, ...], *, scheme: str = "standard"
) -> dict[str, tuple[str, Row]]:
    """Rows of a recipe under a scheme, untuned, with their places, by pair."""
    found = {}
    for index, one in enumerate(record(path)["rows"]):
        row = Row.from_dict(one)
        asked = (row.recipe, row.scheme, row.tuned) == (recipe, scheme, False)
        if asked and row.family in families:
            found[row.pair] = (f"/rows/{index}/change", row)
    return found


def shares(*recipes: str, families: tuple[str, ...]) -> Measured:
    """Pairs within the criterion, of those that were measured under every one of the recipes."""
    found = {recipe: rows_of(ACCURACY, recipe, families) for recipe in recipes}
    pairs = sorted(set.intersection(*(set(rows) for rows in found.values())))
    figures = tuple(
        Figure(
            what=f"{recipe}: pairs that lose at most 1 %, of {len(pairs)}",
            value=sum(rows[pair][1].within(CRITERION) for pair in pairs),
            source=ACCURACY,
            at=tuple(rows[pair][0] for pair in pairs),
            rule="within",
        )
        for recipe, rows in found.items()
    )
    parts = [f"{r} {f.value} of {len(pairs)}" for r, f in zip(recipes, figures, strict=True)]
    return Measured(text=f"{', '.join(parts)} ([accuracy][a])", figures=figures)


def _scores(path: str, recipes: tuple[str, ...]) -> tuple[str, tuple[Figure, ...]]:
    """Relative changes of the pretrained encoder's scores: the pairs' names and changes."""
    parts, figures = [], list[Figure]()
    for recipe in recipes:
        rows = sorted(rows_of(path, recipe, ("encoder",)).items())
        taken = [
            Figure(
                what=f"{recipe} on {pair}: change of the score",
                value=row.change,
                source=path,
                at=(place,),
                rule="value",
            )
            for pair, (place, row) in rows
            if row.change is not None
        ]
        figures += taken
        parts.append(f"{recipe} {', '.join(f'{100 * one.value:+.2f}' for one in taken)} %")
    pairs = ", ".join(sorted(rows_of(path, recipes[0], ("encoder",))))
    return f"{pairs}: {'; '.join(parts)}", tuple(figures)


def changes(*recipes: str) -> Measured:
    """Of the encoder's scores on a CPU."""
    text, figures = _scores(ACCURACY, recipes)
    return Measured(text=f"change of the score on {text} ([accuracy][a])", figures=figures)


def kernel_scores(*recipes: str) -> Measured:
    """Of the encoder's scores with its products on a GPU's kernels, once they were measured."""
    if not (ROOT / ON_KERNELS).is_file():
        return Measured(text="On a GPU's kernels: not measured yet", figures=())
    text, figures = _scores(ON_KERNELS, recipes)
    apart = tuple(
        Figure(
            what=f"{row['recipe']} on {row['pair']}: the score beside a CPU's",
            value=row["apart"],
            source=ON_KERNELS,
            at=(f"/beside/rows/{index}/apart",),
            rule="value",
        )
        for index, row in enumerate(record(ON_KERNELS).get("beside", {"rows": []})["rows"])
        if row["recipe"] in recipes
    )
    worst = max((abs(one.value) for one in apart), default=None)
    told = "" if worst is None else f"; at most {100 * worst:.2f} % from a CPU's"
    return Measured(
        text=f"On an H200's kernels, {text}{told} ([on kernels][g])", figures=(*figures, *apart)
    )


def speed(row: str, peer: str) -> Measured:
    """Geometric mean, and the number of problems, of a line of the table of kernels."""
    ((index, line),) = (
        (index, one)
        for index, one in enumerate(record(KERNELS)["table"])
        if (one["row"], one["against"]) == (row, peer)
    )
    figure = Figure(
        what=f"{row} against {peer}: times as fast, geometric mean",
        value=line["geomean"],
        source=KERNELS,
        at=(f"/table/{index}/geomean",),
        rule="value",
    )
    text = f"{figure.value:.2f} times as fast, geometric mean over {line['problems']} products"
    return Measured(text=text, figures=(figure,))


def block(key: str, unit: str) -> Measured:
    """bf16's figure of a block's training step over that of ours, by case, run and side.

    Of bf16's launched and replayed steps, whichever has the smaller figure.

    Args:
        key: of the figure in the record; replays have no peak of memory.
    """
    parts, figures = [], list[Figure]()
    for index, row in enumerate(record(BLOCK)["rows"]):
        place = f"/rows/{index}/measured/forward_backward"
        steps = row["measured"]["forward_backward"]
        found = {name: one[key] for name, one in steps.items() if key in one}
        bf16 = min((one for one in BF16 if one in found), key=found.__getitem__)
        for end, run in RUNS.items():
            case = f"{row['case']}, {run}"
            ours = {side: recipe + end for side, recipe in SIDES.items() if recipe + end in found}
            taken = [
                Figure(
                    what=f"{case}, blocks of {side}, beside {bf16} bf16: times {unit}",
                    value=found[bf16] / found[name],
                    source=BLOCK,
                    at=(f"{place}/{bf16}/{key}", f"{place}/{name}/{key}"),
                    rule="ratio",
                )
                for side, name in ours.items()
            ]
            told = [
                f"blocks of {side}: {figure.value:.2f} times {unit}"
                for side, figure in zip(ours, taken, strict=True)
            ]
            if told:
                parts.append(f"{case}, beside {bf16} bf16: {', '.join(told)}")
            figures += taken
    text = f"H200, {'; '.join(parts)} ([block][b])"
    return Measured(text=text, figures=tuple(figures))


def commands(path: str, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[str]:
    """Of a record's runs.

    Args:
        wanted: rows whose runs are asked for, of a record whose rows name theirs.
    """
    content = record(path)
    sessions = content["sessions"]
    rows = content.get("rows", [])
    if rows and "session" in rows[0]:
        used = sorted({row["session"] for row in rows if wanted(row)})
        sessions = [sessions[index] for index in used]
    return [session["command"] for session in sessions]


def accuracy_commands(path: str = ACCURACY) -> list[str]:
    """Those that quantised something."""
    return commands(path, lambda row: row["recipe"] != BASELINE)
