"""What ``workbench replay`` prints: how near to the optimum after how many measurements."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from tuning.replay import Curve, Replay

__all__ = ["replay_tables"]

#: Measurements that have a column, as far as the budget goes.
COLUMNS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def replay_tables(replay: "Replay") -> Iterable[Table]:
    """One table a study, and one over all of them where there are several."""
    for study in replay.studies:
        space = study.space
        size = f"{len(space.outcomes)} configurations"
        if len(space.outcomes) < space.legal_size:
            size = f"a sample of {len(space.outcomes)} of {space.legal_size} configurations"
        kind = "SIMULATED: times are the cost model's" if space.simulated else "measured"
        best = f"best {space.objective.text(space.best)}"
        title = f"{space.problem}  {space.kernel}  {kind}, {size}, {best}"
        yield _table(title, study.curves, replay)
    if len(replay.studies) > 1:
        yield _table(f"all {len(replay.studies)} studies", replay.overall, replay)


def _table(title: str, curves: "Sequence[Curve]", replay: "Replay") -> Table:
    longest = max(len(curve.median) for curve in curves)
    columns = [n for n in COLUMNS if n < longest] + [longest]
    table = Table(
        title=f"{title}\nfraction of the optimum after so many measurements: "
        f"median (p10-p90) of {replay.seeds} seeds",
        title_justify="left",
    )
    table.add_column("strategy", no_wrap=True)
    for count in columns:
        table.add_column(str(count), justify="right", no_wrap=True)
    table.add_column("stops after", justify="right", no_wrap=True)
    table.add_column("failures", overflow="fold")
    for curve in curves:
        low, middle, high = curve.measurements
        table.add_row(
            curve.strategy.value,
            *(_cell(curve, count) for count in columns),
            f"{middle}" if low == high else f"{middle} ({low}-{high})",
            ", ".join(f"{count:.1f} {status}" for status, count in sorted(curve.failures.items())),
        )
    return table


def _cell(curve: "Curve", count: int) -> str:
    if count > len(curve.median):
        return "-"
    low, middle, high = (line[count - 1] for line in (curve.p10, curve.median, curve.p90))
    return f"{middle:.3f}" if low == high else f"{middle:.3f} ({low:.3f}-{high:.3f})"
