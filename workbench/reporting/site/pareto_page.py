"""The page about time, energy and error together: a plot and its data for every shape."""

import math

from workbench.reporting.figure import recipe_colour
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.chart import Chart, Marks, Point, scatter
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.tradeoff import Tradeoff, TradeoffFront, fronts, names, without_energy
from workbench.reporting.tradeoff_figure import tradeoff_csv
from workbench.reporting.tradeoff_table import tradeoff_tables

__all__ = ["pareto_sections"]

#: Radius of the mark with the most energy, and the least of any, in the drawing's units.
LARGEST, LEAST = 14.0, 3.0
#: Shapes of a GPU that are drawn; the tables have all.
MOST_DRAWN = 24


def pareto_sections(all_of: Gathered) -> list[Section]:
    """A section for every GPU that a product's energy is known of."""
    found = fronts(all_of.tradeoffs)
    sections = [
        _gpu(all_of, gpu, place, own)
        for place, gpu in enumerate(all_of.gpus)
        if (own := [one for one in found if one.rows[0].gpu == gpu])
    ]
    if sections:
        return sections
    return [
        Section(
            key="none",
            title="No energy is known yet",
            before=paragraph("No run holds a product with a correct result that can be priced."),
        )
    ]


def _gpu(all_of: Gathered, gpu: str, place: int, found: list[TradeoffFront]) -> Section:
    charts = [
        chart
        for number, one in enumerate(found[:MOST_DRAWN])
        if (chart := _chart(one, gpu, f"pareto-{place}-{number}")) is not None
    ]
    drawn = "".join(chart.html() for chart in charts)
    words = (
        "Down is faster, right is more exact, and a mark's area is the energy of a launch. Marks "
        "in full colour are not beaten: no other entry of the shape is at least as good in time, "
        "energy and error, and better in one. Energies are measured where a sweep searched for "
        "energy, and predicted elsewhere."
    )
    if len(found) > MOST_DRAWN:
        words += f" {MOST_DRAWN} of {len(found)} shapes are drawn; the table has all."
    if left := without_energy([row for row in all_of.tradeoffs if row.gpu == gpu], found):
        words += f" {left}"
    beaten = tradeoff_tables(found, kept=False, cards=True, runs=True)
    if beaten:
        beaten = f"<details><summary>Those that are beaten</summary>{beaten}</details>"
    return Section(
        key=f"gpu-{place}",
        title=gpu,
        before=paragraph(words),
        after=f'<div class="charts">{drawn}</div>'
        + paragraph("Beaten by no other in time, energy and error:")
        + tradeoff_tables(found, kept=True, cards=True, runs=True)
        + beaten,
    )


def _chart(one: TradeoffFront, gpu: str, key: str) -> Chart | None:
    pairs = one.drawn()
    if not pairs:
        return None
    most = max(one.energy_mj(row) for row, _ in pairs)
    # Numbers of more digits than three would reach into the axis's title.
    unit, scale = ("ms", 1e-3) if max(row.time_us for row, _ in pairs) >= 1e3 else ("us", 1.0)
    whole = all(row.with_quantize for row, _ in pairs)
    marks = [
        _marks(one, row, kept, name, most, scale)
        for (row, kept), name in zip(pairs, names(pairs), strict=True)
    ]
    return Chart(
        key=key,
        title=f"{one.shape}, {one.time_word}",
        description=(
            f"{len(pairs)} entries on {gpu}: {one.time_word} time upwards, signal to quantisation "
            f"noise of the product to the right, area by {one.energy_word} energy, at most "
            f"{most:.4g} mJ. Down is faster, right is more exact."
        ),
        svg=scatter(
            marks,
            x_title="SQNR of the product, dB",
            y_title=f"{one.time_word} time{', with quantising' if whole else ''}, {unit}",
        ),
        data=tradeoff_csv([one]),
        legend=[(f"{one.time_word} time", "var(--soft)", one.simulated)],
        notes=[f"Area: {one.energy_word} energy, the largest {most:.4g} mJ."],
    )


def _marks(
    one: TradeoffFront, row: Tradeoff, kept: bool, name: str, most: float, scale: float
) -> Marks:
    energy_mj = one.energy_mj(row)
    tip = (
        f"{row.recipe}, {row.kernel}: {row.time_us:.2f} us {one.time_word}, {energy_mj:.4g} mJ "
        f"{one.energy_word}, SQNR {row.sqnr_normal_db:.1f} dB"
    )
    point = Point(x=row.sqnr_normal_db or 0.0, y=scale * row.time_us, tip=tip, name=name)
    return Marks(
        name=row.recipe,
        colour=recipe_colour(row.recipe),
        points=[point],
        hollow=one.simulated,
        size=max(LEAST, LARGEST * math.sqrt(energy_mj / most)),
        faint=not kept,
    )
