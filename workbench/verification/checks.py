"""All checks of an installed package, in the checking process, once its independence is shown."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from workbench.verification.function_checks import Subject
from workbench.verification.functions import CHECKS
from workbench.verification.recorder import Report

__all__ = ["environment_of", "run_checks"]


def environment_of(device: str) -> dict[str, Any]:
    """Device, driver and versions of this process, the workbench's own also from a checkout.

    The clock is that of each timing.
    """
    from tuning.environment import read_environment
    from workbench import __version__

    environment = read_environment(device).to_dict()
    if environment["versions"].get("tile-workbench") in (None, "absent"):
        environment["versions"]["tile-workbench"] = __version__
    return environment


def run_checks(package: ModuleType, job: Mapping[str, Any], device: str, report: Report) -> None:
    """Check answers, and on a GPU speed, of every tuned entry.

    Args:
        package: the emitted package, imported.
        job: what ``verify`` wrote for this process.
        device: "cuda" or "cpu".
        report: takes one JSON-ready mapping a result.
    """
    report({"environment": environment_of(device)})
    subject = Subject(package=package, evidence=job["evidence"], device=device, seed=job["seed"])
    held = {name: checks for name, checks in CHECKS.items() if subject.entries(name)}
    for checks in held.values():
        checks.check(subject, report)
    if device == "cuda":
        for checks in held.values():
            checks.time(subject, report)
