"""A run as a data set: one file of all correct timings, and a card that says how they were made."""

from pathlib import Path

import numpy as np

from sim.measured import MeasuredTable
from sim.measured_file import MEASUREMENTS_FILE, write_measured
from tuning.measured_runs import MeasuredRun, measured_run
from tuning.records import Run
from workbench.outfile import check_name, unwritable

__all__ = ["CARD_FILE", "data_card", "write_data_set"]

CARD_FILE = "CARD.md"


def write_data_set(run: Run, folder: Path) -> list[Path]:
    """Write a run's timings and, where there is none yet, their card.

    Returns:
        The files that were written.

    Raises:
        ValueError: the run is simulated or holds nothing correct, the folder holds a sweep, or it
            cannot be written.
    """
    check_name(folder)
    if (folder / "plan.json").exists():
        raise ValueError(f"{folder} holds a sweep: choose a folder of its own for the data set")
    found = measured_run(run)
    file, card = folder / MEASUREMENTS_FILE, folder / CARD_FILE
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_measured(file, found.tables)
    if card.exists():  # what someone has written about the data is worth more
        return [file]
    with unwritable(card):
        card.write_text(data_card(run, found), encoding="utf-8")
    return [file, card]


def data_card(run: Run, found: MeasuredRun) -> str:
    """The card of a data set, Markdown."""
    tables = found.tables
    rows = sum(map(len, tables))
    environments = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in one.environment.items()) for one in tables
    )
    sources = {one.kernel.name: one.source for one in tables if one.source}
    spread = np.concatenate([one.iqr_us / one.time_us for one in tables])
    known = spread[np.isfinite(spread)]
    lines = [
        f"# {run.folder.name}: {rows} configurations on {tables[0].gpu}",
        "",
        f"`{MEASUREMENTS_FILE}`: a configuration a row, {len(tables)} studies. Written by "
        "`workbench export --to parquet` from a sweep.",
        "",
        f"* **How**: strategy {run.plan['strategy']}, {run.plan['cache']} L2, seed "
        f"{run.plan['seed']}; the answer checked before the time; the rule of "
        "`docs/conventions.md`.",
        *(f"* **Where**: {text}." for text in environments if text),
        *(f"* **Source of {name}**: SHA-256 `{digest}`." for name, digest in sources.items()),
        *(
            [
                f"* **Noise**: interquartile range over median {100 * np.median(known):.1f} % at "
                f"the median of configurations, {100 * np.percentile(known, 90):.1f} % at their "
                "90th percentile."
            ]
            if len(known)
            else []
        ),
        *(f"* **Left out**: {line}." for line in found.left_out),
        "",
        "| study | rows | whole space | fastest, us | median over fastest |",
        "| --- | ---: | --- | ---: | ---: |",
        *map(_line, tables),
    ]
    return "\n".join(lines) + "\n"


def _line(one: MeasuredTable) -> str:
    best, middle = float(one.time_us.min()), float(np.median(one.time_us))
    whole = "yes" if one.whole_space else "a sample"
    return f"| {one} | {len(one)} | {whole} | {best:.1f} | {middle / best:.2f} |"
