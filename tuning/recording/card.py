"""The card of a recorded data set: what it is, how and when it was made, how noisy it is."""

from collections import Counter

import numpy as np

from sim.measured import MeasuredTable
from tiles.kernels import Status
from tuning.recording.design import Design
from tuning.recording.tables import RecordedSet

__all__ = ["card"]

_WHAT = {
    "products": "scaled products, cold L2",
    "warm": "scaled products, the L2 left as the launch before left it",
    "streams": "kernels that pass over memory once: quantising, dequantising, transposing, INT8 "
    "dataflow; cold L2",
    "others": "products of experts, of a batch and with outliers apart; cold L2",
}


def card(one: RecordedSet, design: Design, file: str, command: str) -> str:
    """Markdown; written anew with every export, so nothing is added to it by hand."""
    tables = one.tables
    rows = sum(map(len, tables))
    simulated = tables[0].gpu.startswith("simulated-")
    places = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in table.environment.items())
        for table in tables
    )
    sources = {table.kernel.name: table.source for table in tables}
    spread = np.concatenate([table.iqr_us / table.time_us for table in tables])
    power = [table.power_w for table in tables if table.power_w is not None]
    windows = ", ".join(f"{window:g}" for window in one.sampling_ms)
    failed = [status.value for status in Status if status.value in one.failed]
    lines = [
        f"# {one.part}: {rows} configurations on {tables[0].gpu}",
        "",
        *(["**Simulated: a rehearsal's times, of the cost model's making.**", ""] * simulated),
        f"`{file}`: a configuration a row, {len(tables)} studies; {_WHAT[one.part]}. "
        f"Written by `{command}`.",
        "",
        f"* **Design**: seed {design.seed}, {one.planned} configurations planned, in an order "
        "whose every beginning is spread over rows, depths, formats and families "
        "(`tuning/recording/problems.py`, `choosing.py`); each study has the model's best of its "
        "own and a stratified draw from a deck that all shapes share.",
        f"* **How**: the answer checked before the time; each pass covers {windows} ms of device "
        "time (a sweep covers 100) after as long a warm-up at most, passes of a study there and "
        "back; time and IQR are over the samples of all passes. The rule of "
        "`docs/conventions.md` otherwise.",
        f"* **When**: {', '.join(one.begun)}.",
        *(f"* **Where**: {text}." for text in places),
        *(f"* **Source of {name}**: SHA-256 `{digest}`." for name, digest in sources.items()),
        f"* **Noise**: IQR over median {_percent(spread, 50)} % at the median of configurations, "
        f"{_percent(spread, 90)} % at their 90th percentile."
        + (
            ""
            if one.noise is None
            else f" Two passes of one configuration lie {100 * one.noise.median:.2f} % apart "
            f"(median of {one.noise.pairs}), {100 * one.noise.p90:.2f} % at the 90th percentile; "
            f"{100 * one.noise.beyond_2_percent:.0f} % of them more than 2 %."
        ),
        *(
            [
                f"* **Power**: {_percent(np.concatenate(power) / 100, 50)} W at the median, "
                f"{_percent(np.concatenate(power) / 100, 90)} W at the 90th percentile."
            ]
            if power
            else []
        ),
        "* **Without a time**: "
        + (", ".join(f"{one.failed[name]} {name}" for name in failed) or "none")
        + ".",
        "* **Not fitted to, not in view** when it was made. **Licence**: as the repository.",
        "",
        "| family | studies | configurations | whole spaces | of >= 150 | median over fastest |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *_families(tables),
    ]
    return "\n".join(lines) + "\n"


def _percent(shares: np.ndarray, at: float) -> str:
    known = shares[np.isfinite(shares)]
    return f"{100 * np.percentile(known, at):.1f}" if len(known) else "-"


def _families(tables: tuple[MeasuredTable, ...]) -> list[str]:
    names = Counter(table.kernel.name for table in tables)
    lines = []
    for name, studies in sorted(names.items()):
        mine = [table for table in tables if table.kernel.name == name]
        ratios = [float(np.median(one.time_us) / one.time_us.min()) for one in mine]
        lines.append(
            f"| {name} | {studies} | {sum(map(len, mine))} | "
            f"{sum(one.whole_space for one in mine)} | {sum(len(one) >= 150 for one in mine)} | "
            f"{np.median(ratios):.2f} |"
        )
    return lines
