"""What `workbench verify` prints: checks, rivals, and what could not be checked."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from workbench.verification import Check, RivalTiming, VerifyReport

__all__ = ["verify_tables"]

_STYLE = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def verify_tables(report: "VerifyReport") -> Iterable[Table | Text]:
    """Checks by subject, timings, what this device cannot check, and the verdict."""
    table = Table(
        title=f"{report.package} {report.version} on {report.device}", title_justify="left"
    )
    table.add_column("subject", overflow="fold")
    table.add_column("passed", justify="right")
    table.add_column("outcome of the others, and why", overflow="fold")
    for subject, checks in _by_subject(report.checks).items():
        passed = sum(check.status.value == "passed" for check in checks)
        others = Text("\n").join(
            Text.assemble(
                (check.status.value, _STYLE[check.status.value]), f" {check.name}: {check.detail}"
            )
            for check in checks
            if check.status.value != "passed"
        )
        table.add_row(Text(subject), str(passed), others)
    yield table
    if report.rivals:
        yield _rival_table(report.rivals)
    for line in report.not_checked:
        yield Text(f"not checked here: {line}")
    yield Text(f"evidence: {report.statement}")
    counts = {name: sum(c.status.value == name for c in report.checks) for name in _STYLE}
    verdict = "PASSED" if report.passed else "FAILED"
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    yield Text(f"{verdict}: {summary}", style="bold green" if report.passed else "bold red")


def _by_subject(checks: Iterable["Check"]) -> dict[str, list["Check"]]:
    """Checks of one kernel on one problem together; all others under the package's name."""
    grouped: dict[str, list[Check]] = {}
    for check in checks:
        subject, colon, _ = check.name.rpartition(": ")
        grouped.setdefault(subject if colon else "package", []).append(check)
    return grouped


def _rival_table(rivals: Iterable["RivalTiming"]) -> Table:
    table = Table(title="measured in this run, one timing rule for all", title_justify="left")
    table.add_column("problem", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    table.add_column("measured us", justify="right")
    table.add_column("IQR us", justify="right")
    table.add_column("SM MHz", justify="right")
    table.add_column("timing, or why it did not run", overflow="fold")
    for one in rivals:
        table.add_row(
            Text(one.problem),
            Text(one.rival),
            "-" if one.time_us is None else f"{one.time_us:.1f}",
            "-" if one.iqr_us is None else f"{one.iqr_us:.1f}",
            "-" if one.sm_clock_mhz is None else str(one.sm_clock_mhz),
            Text(one.refused or ", ".join(filter(None, (one.timing, one.note)))),
        )
    return table
