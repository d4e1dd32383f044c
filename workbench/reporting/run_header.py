"""The head of a run's page: measured or simulated, which GPU, which versions, which search."""

import html

from tuning import Environment, Run
from tuning.objective import objective_of
from tuning.staleness import stale_studies
from workbench.printable import printable_name
from workbench.reporting.section import facts_list

__all__ = ["header"]


def header(run: Run) -> str:
    """The head of the page: measured or simulated, which GPU, which versions, which search."""
    modes = {study.simulated for study in run.studies} or {bool(run.plan.get("simulate"))}
    banner = "".join(_banner(simulated) for simulated in sorted(modes))
    gpus = dict.fromkeys([str(run.plan.get("gpu", "?")), *(s.gpu for s in run.studies)])
    facts: dict[str, object] = {"GPU": ", ".join(gpus)}
    for environment in _environments(run):
        clock = environment.sm_clock_mhz
        for name, value in (
            ("Device", environment.gpu),
            ("Driver", environment.driver),
            ("SM clock under load", "" if clock is None else f"{clock} MHz"),
            *environment.versions.items(),
        ):
            # A run that was taken up again elsewhere names every value it saw.
            seen = str(facts[name]).split(", ") if name in facts else []
            facts[name] = ", ".join(dict.fromkeys([*seen, value])) if value else facts.get(name)
    limit = run.plan.get("time_limit_s")
    facts |= {
        "Studies": len(run.studies),
        "Trials": sum(len(study.trials) for study in run.studies),
        "Strategy": run.plan.get("strategy"),
        "Objective": f"least {objective_of(run.plan).value}",
        "Measurements a study, at most": run.plan.get("max_measurements"),
        "Time limit": None if limit is None else f"{limit:g} s",
        "Seed": run.plan.get("seed"),
        "L2 before a launch": run.plan.get("cache"),
        "Run folder": printable_name(run.folder.name),
    }
    return f"{banner}{_stale(run)}{facts_list(facts)}"


def _stale(run: Run) -> str:
    """A banner for each thing that has changed, and the studies that rest on it."""
    by_reason: dict[str, list[str]] = {}
    for study, reason in stale_studies(run):
        by_reason.setdefault(reason, []).append(study)
    found = ""
    for reason, studies in by_reason.items():
        which = f"{len(studies)} studies" if len(studies) > 1 else studies[0]
        listed = "".join(f"<li>{html.escape(study)}</li>" for study in studies)
        found += f'<div class="banner simulated"><b>STALE</b> {html.escape(f"{which}: {reason}")}'
        if len(studies) > 1:
            found += f"<details><summary>Which</summary><ul>{listed}</ul></details>"
        found += "</div>"
    return found


def _banner(simulated: bool) -> str:
    if simulated:
        return (
            '<p class="banner simulated"><b>SIMULATED</b> Every time and energy on this page comes '
            "from the cost model; nothing was measured.</p>"
        )
    return (
        '<p class="banner measured"><b>MEASURED</b> Times were taken on the GPU named below; '
        "predictions stand in columns of their own.</p>"
    )


def _environments(run: Run) -> list[Environment]:
    found: list[Environment] = []
    for study in run.studies:
        if study.environment is not None and study.environment not in found:
            found.append(study.environment)
    return found
