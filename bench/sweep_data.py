"""Makes one data set of run folders: what sweeps measured, and beside it what was predicted then.

    python -m bench.sweep_data RUN... --commit HASH --day DATE --output data/h200/sweeps

RUNs are folders of measured sweeps, each of a commit whose cost model chose what they tried.  Into
OUTPUT go ``measurements.parquet`` (a configuration a row), ``predictions.parquet`` (what the sweeps
themselves predicted, row for row), ``without-a-time.csv`` (what failed or was not reached, with
status and reason) and ``CARD.md``.  No GPU is needed; the same runs give the same files.

Of every kind of problem the shapes stand in the order of their extents; the first, third, fifth ...
are marked as in view, for constants to be set on, and the others are for judging alone.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sim.foretold import FORETOLD_FILE, Foretold, write_foretold
from sim.measured import MeasuredTable
from sim.measured_file import MEASUREMENTS_FILE, write_measured
from tiles.problems import Problem
from tuning import Run, load_run
from tuning.measured_runs import measured_run

__all__ = ["SweepSet", "card", "main", "shapes_in_view", "sweep_set", "write_sweep_set"]

WITHOUT_FILE, CARD_FILE = "without-a-time.csv", "CARD.md"
NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSet:
    """Several sweeps' tables, with what is told of them on the card."""

    tables: tuple[MeasuredTable, ...]
    foretold: tuple[Foretold, ...]
    without: tuple[tuple[str, ...], ...]  #: run, problem, kernel, configuration, status, reason
    runs: tuple[str, ...]  #: a line a run: what it was asked to do
    in_view: tuple[str, ...]  #: shapes that constants may be set on, as "kind:extents"
    held_out: tuple[str, ...]
    day: str = ""  #: of the sweeps


def _shape(problem: Problem) -> tuple[str, tuple[int, ...]]:
    return problem.kind, tuple(problem.shape)


def shapes_in_view(problems: Iterable[Problem]) -> set[tuple[str, tuple[int, ...]]]:
    """Every second shape of each kind of problem, in the order of their extents."""
    kinds: dict[str, set[tuple[int, ...]]] = {}
    for kind, extents in map(_shape, problems):
        kinds.setdefault(kind, set()).add(extents)
    return {(kind, one) for kind, found in kinds.items() for one in sorted(found)[::2]}


def sweep_set(runs: Sequence[Run], commit: str, day: str = "") -> SweepSet:
    """Every correct time of the runs as tables, in the order of runs and studies.

    Raises:
        ValueError: a run is simulated, or nothing in it is correct.
    """
    tables: list[MeasuredTable] = []
    foretold: list[Foretold] = []
    without: list[tuple[str, ...]] = []
    asked: list[str] = []
    for run in runs:
        found = measured_run(run)
        where = {"sweep": run.folder.name, "commit": commit}
        tables += [replace(one, environment={**one.environment, **where}) for one in found.tables]
        foretold += found.foretold
        without += _without(run)
        plan = run.plan
        asked.append(
            f"`{run.folder.name}`: strategy {plan['strategy']}, {plan['cache']} L2, seed "
            f"{plan['seed']}, at most {plan['max_measurements']} configurations a study, "
            f"{plan['time_limit_s']:g} s in all; {sum(map(len, found.tables))} configurations in "
            f"{len(found.tables)} of {len(plan['studies'])} studies"
        )
    chosen = shapes_in_view(one.problem for one in tables)
    names = {
        view: tuple(
            f"{kind}:{'x'.join(map(str, extents))}"
            for kind, extents in sorted({_shape(one.problem) for one in tables})
            if ((kind, extents) in chosen) is view
        )
        for view in (True, False)
    }
    return SweepSet(
        tables=tuple(replace(one, in_view=_shape(one.problem) in chosen) for one in tables),
        foretold=tuple(foretold),
        without=tuple(without),
        runs=tuple(asked),
        in_view=names[True],
        held_out=names[False],
        day=day,
    )


def _without(run: Run) -> list[tuple[str, ...]]:
    """A line for each configuration without a time, and for each study without any trial."""
    lines: list[tuple[str, ...]] = []
    for study in run.studies:
        where = (run.folder.name, str(study.problem), study.kernel)
        if not study.trials:
            lines.append((*where, "", NOT_REACHED, study.stopped))
        for trial in study.trials:
            one = trial.measurement
            if trial.stale or one.time_us is None:
                fields = " ".join(f"{k}={v}" for k, v in trial.config.to_dict().items())
                status = "stale" if trial.stale else one.status.value
                lines.append((*where, fields, status, trial.stale or one.reason))
    return lines


def write_sweep_set(found: SweepSet, folder: Path, command: str) -> list[Path]:
    """Write the four files of the set; what stood there is replaced.

    Raises:
        ValueError: something cannot be written.
    """
    write_measured(folder / MEASUREMENTS_FILE, found.tables)
    write_foretold(folder / FORETOLD_FILE, found.foretold)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("sweep", "problem", "kernel", "configuration", "status", "reason"))
    lines.writerows(found.without)
    _replace(folder / WITHOUT_FILE, text.getvalue())
    _replace(folder / CARD_FILE, card(found, command))
    names = (MEASUREMENTS_FILE, FORETOLD_FILE, WITHOUT_FILE, CARD_FILE)
    return [folder / name for name in names]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror}: free space") from error


def card(found: SweepSet, command: str) -> str:
    """The set's card, Markdown."""
    tables = found.tables
    spread = np.concatenate([one.iqr_us / one.time_us for one in tables])
    spread = 100 * spread[np.isfinite(spread)]
    places = dict.fromkeys(
        ", ".join(f"{k} {v}" for k, v in one.environment.items() if k != "sweep") for one in tables
    )
    sources = {one.kernel.name: one.source for one in tables if one.source}
    statuses = Counter(line[4] for line in found.without)
    reasons = Counter(line[5] for line in found.without if line[4] == NOT_REACHED)
    power = np.concatenate([one.power_w for one in tables if one.power_w is not None])
    clock = np.concatenate([one.clock_mhz for one in tables if one.clock_mhz is not None])
    lines = [
        f"# Sweeps: {sum(map(len, tables))} configurations on {tables[0].gpu}, measured after the "
        "model was frozen",
        "",
        f"`{MEASUREMENTS_FILE}`: a configuration a row, {len(tables)} studies. "
        f"`{FORETOLD_FILE}`: what the cost model of the same commit predicted for each row before "
        f"it was measured, as the sweeps' journals have it. Written by `{command}`.",
        "",
        "* **How**: `workbench sweep FILE --on gpu` for each name below, FILE `examples/NAME.yaml` "
        "where that exists and otherwise one that asks for just the studies in this set's rows"
        f"{f', {found.day}' if found.day else ''}; "
        "the answer checked before the time, the rule of `docs/conventions.md`.",
        *(f"* **Sweep** {line}." for line in found.runs),
        *(f"* **Where**: {text}." for text in places),
        "* **Biased**: configurations are those that searches chose, guided by the cost model: "
        "those that it held for the fastest, then neighbours of the best. Errors on them are "
        "errors near the top of the model's own list; orders within a study are harder to tell "
        "than over a whole space. No study is a whole space, and most were cut off by the sweep's "
        "time limit.",
        f"* **Noise**: interquartile range over median {np.median(spread):.1f} % at the median of "
        f"configurations, {np.percentile(spread, 90):.1f} % at their 90th percentile; each "
        "configuration was measured once, near-ties at the top once more in turns.",
        f"* **Clock and power**: {np.nanmedian(clock):.0f} MHz and {np.nanmedian(power):.0f} W at "
        f"the median, {np.nanpercentile(clock, 5):.0f} MHz at the 5th percentile, "
        f"{np.nanpercentile(power, 95):.0f} W at the 95th.",
        f"* **Without a time** (`{WITHOUT_FILE}`): "
        + (", ".join(f"{n} {status}" for status, n in sorted(statuses.items())) or "none")
        + "".join(f"; {n} studies: {why}" for why, n in reasons.items())
        + ". No configuration that was tried failed." * (set(statuses) <= {NOT_REACHED}),
        "* **In view**: of every kind of problem the shapes in the order of their extents, every "
        "second one from the first on: constants of the model are set on these. The others are "
        "for judging alone.",
        f"  * set on: {', '.join(f'`{one}`' for one in found.in_view)}",
        f"  * held out: {', '.join(f'`{one}`' for one in found.held_out)}",
        *(f"* **Source of {name}**: SHA-256 `{digest}`." for name, digest in sources.items()),
        "* **Licence**: as the repository.",
        "",
        "| family | studies | configurations | of them held out |",
        "| --- | ---: | ---: | ---: |",
        *_families(tables),
    ]
    return "\n".join(lines) + "\n"


def _families(tables: Sequence[MeasuredTable]) -> list[str]:
    lines = []
    for name in sorted({one.kernel.name for one in tables}):
        mine = [one for one in tables if one.kernel.name == name]
        judged = sum(len(one) for one in mine if not one.in_view)
        lines.append(f"| {name} | {len(mine)} | {sum(map(len, mine))} | {judged} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for the caller's mistakes."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweep_data", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--commit", required=True, help="of the sources that swept")
    parser.add_argument("--day", default="", help="of the sweeps, for the card: 2026-11-22")
    parser.add_argument("--output", type=Path, default=Path("data/h200/sweeps"))
    given = parser.parse_args(arguments)
    names = " ".join(one.name for one in given.runs)
    command = f"python -m bench.sweep_data {names} --commit {given.commit}"
    command += f" --day {given.day}" if given.day else ""
    try:
        found = sweep_set([load_run(one) for one in given.runs], given.commit, given.day)
        written = write_sweep_set(found, given.output, command)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for path in written:
        print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
