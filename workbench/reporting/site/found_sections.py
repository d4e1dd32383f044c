"""The first page's sections about what is no run: packages, calibrations, what was not read."""

import html
import math

from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.frame import badge, date_text
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.table import Column, table

__all__ = ["calibration_sections", "packages_sections", "unread_sections"]


def packages_sections(all_of: Gathered) -> list[Section]:
    """Emitted packages, and how their verifications ended."""
    if not all_of.packages and not all_of.verified:
        return []
    after = ""
    if all_of.packages:
        after += table(
            [
                Column("folder"),
                Column("package"),
                Column("version"),
                Column("tuned entries", "number"),
                Column("evidence", "wrap"),
            ],
            [[p.name, p.package, p.version, p.entries, p.statement] for p in all_of.packages],
            cards=True,
        )
    if all_of.verified:
        after += "<h3>Verifications</h3>" + table(
            [
                Column("file"),
                Column("package"),
                Column("device"),
                Column("outcome"),
                Column("checks", "wrap"),
            ],
            [
                [
                    one.name,
                    one.package,
                    one.device,
                    badge("passed" if one.passed else "failed"),
                    ", ".join(f"{count} {outcome}" for outcome, count in one.counts.items()),
                ]
                for one in all_of.verified
            ],
            cards=True,
        )
    return [Section(key="packages", title="Packages", after=after)]


def calibration_sections(all_of: Gathered) -> list[Section]:
    """What GPUs taught the cost model."""
    if not all_of.calibrations:
        return []
    after = ""
    for one in all_of.calibrations:
        made = "rehearsal on a simulated machine" if one.simulated else f"driver {one.driver}"
        after += f"<h3><code>{html.escape(one.name)}</code></h3>" + paragraph(
            f"{one.gpu}: {one.device}, {made}, {date_text(one.made)}"
        )
        after += table(
            [
                Column("kernel"),
                Column("timings", "number"),
                Column("mean error before", "number"),
                Column("after the fit, on left-out shapes", "number"),
            ],
            [
                [family, rows, *(f"{100 * math.expm1(error):.1f} %" for error in (before, fitted))]
                for family, rows, before, fitted in one.families
            ],
            cards=True,
        )
    return [Section(key="calibrations", title="Calibrations", after=after)]


def unread_sections(all_of: Gathered) -> list[Section]:
    """What is in the folder and on no page, and why."""
    if not all_of.unread:
        return []
    return [
        Section(
            key="unread",
            title="Not read",
            before=paragraph("These are in the folder and on no page."),
            after=table(
                [Column("what", "wrap"), Column("why", "wrap")],
                [[one.name, one.reason] for one in all_of.unread],
                cards=True,
            ),
        )
    ]
