"""The entries that are beaten in time, energy and error by no other, shape by shape."""

from collections.abc import Sequence

from workbench.reporting.table import Column, number, table
from workbench.reporting.tradeoff import Tradeoff, TradeoffFront

__all__ = ["tradeoff_tables"]


def tradeoff_tables(
    found: Sequence[TradeoffFront], *, kept: bool, cards: bool = False, runs: bool = False
) -> str:
    """A table of what was measured and one of what was simulated, each where there is any.

    Args:
        kept: the entries that are not beaten, or those that are.
        cards: as :func:`workbench.reporting.table.table` takes it.
        runs: name the run of each.
    """
    return "".join(
        _table([one for one in found if one.simulated is simulated], simulated, kept, cards, runs)
        for simulated in (False, True)
    )


def _table(
    found: Sequence[TradeoffFront], simulated: bool, kept: bool, cards: bool, runs: bool
) -> str:
    rows = [
        (one.shape, row)
        for one in found
        for row, front in zip(one.rows, one.front, strict=True)
        if front is kept
    ]
    if not rows:
        return ""
    word = "simulated" if simulated else "measured"
    read = any(row.energy_mj is not None for _, row in rows)
    # What was simulated is predicted: its numbers would stand there twice.
    told = not simulated
    columns = [
        Column("shape"),
        Column("recipe"),
        Column("kernel"),
        Column("path"),
        Column(f"{word} time, us", "number"),
        *([Column("predicted time, us", "number")] if told else []),
        *([Column(f"{word} energy, mJ", "number")] if read else []),
        *([Column("predicted energy, mJ", "number")] if told or not read else []),
        Column("launches"),
        Column("SQNR normal, dB", "number"),
        Column("SQNR outlier, dB", "number"),
        *([Column("run")] if runs else []),
        Column("configuration", "code"),
    ]

    def line(shape: str, row: Tradeoff) -> list[object]:
        return [
            shape,
            row.recipe,
            row.kernel,
            row.path,
            number(row.time_us),
            *([number(row.predicted_us)] if told else []),
            *([number(row.energy_mj)] if read else []),
            *([number(row.predicted_energy_mj)] if told or not read else []),
            row.launches,
            number(row.sqnr_normal_db, 3),
            number(row.sqnr_outlier_db, 3),
            *([row.run] if runs else []),
            row.config,
        ]

    return table(columns, [line(shape, row) for shape, row in rows], cards=cards)
