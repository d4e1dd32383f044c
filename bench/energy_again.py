"""A record of :mod:`bench.energy` beside what today's model says of the same configurations."""

import json
import statistics
from pathlib import Path
from typing import Any

from sim import Gpu, Prediction, price
from sim.energy import launch_energy
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

__all__ = ["again_lines", "predicted"]

HEADER = (
    "| problem | kernel | mJ measured | predicted then | predicted now | error now "
    "| us among others, measured | predicted now | us for seconds, measured | predicted now |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def predicted(one: Prediction, gpu: Gpu) -> dict[str, float]:
    """What a record has of a prediction."""
    energy = launch_energy(one, gpu)
    return {
        "time_us": one.time_us,
        "sustained_time_us": energy.sustained_time_us,
        "power_w": energy.power_w,
        "energy_mj": energy.energy_mj,
    }


def again_lines(record: Path, schema: str, gpu: Gpu) -> list[str]:
    """A Markdown table: measured energies and times, predicted then and now.

    Raises:
        ValueError: the file is no such record, or nothing was measured.
    """
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {record}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{record} is no JSON: name a record of bench.energy") from error
    if not isinstance(content, dict) or content.get("schema") != schema or content["dry_run"]:
        raise ValueError(f"{record} is no measured record {schema}: name one of bench.energy")
    return [*HEADER.splitlines(), *(_line(row, gpu) for row in content["rows"])]


def _line(row: dict[str, Any], gpu: Gpu) -> str:
    problem, one = parse_problem(row["problem"]), kernel(row["kernel"])
    table = ConfigTable.of([one.config_type.from_dict(row["config"])])
    now = predicted(price(problem, one, table, gpu).best(), gpu)
    measured = row["measured"]
    energy_mj = statistics.median(measured["energy_mj"])
    short = measured.get("short_time_us")
    cells = (
        f"`{row['problem']}`",
        row["kernel"],
        f"{energy_mj:.1f}",
        f"{row['predicted']['energy_mj']:.1f}",
        f"{now['energy_mj']:.1f}",
        f"{100 * (now['energy_mj'] / energy_mj - 1):+.0f} %",
        f"{statistics.median(short):.0f}" if short else "",
        f"{now['time_us']:.0f}",
        f"{statistics.median(measured['time_us']):.0f}",
        f"{now['sustained_time_us']:.0f}",
    )
    return f"| {' | '.join(cells)} |"
