"""The verbs of the workbench as Python functions; the command line calls exactly these."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.formats import TensorFormat
from tiles.intake import shown
from tiles.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from tuning import Progress, Run, StudyRecord
    from workbench.emission import EmittedPackage
    from workbench.verification import VerifyReport

__all__ = ["emit", "repair", "report", "select_recipes", "sweep", "unserved", "verify", "winners"]


def select_recipes(
    names: Sequence[str] | None = None, formats: Sequence[str] | None = None
) -> list[str] | None:
    """Recipes by name, and every recipe whose activations take one of the given formats.

    Args:
        names: recipe names.
        formats: element (``e4m3fn``) or tensor formats (``e4m3fn.row``).
    Returns:
        Recipe names in the catalogue's order, or ``None`` when nothing was asked for.
    Raises:
        ValueError: an unknown recipe, or a format that no recipe uses.
    """
    if not names and not formats:
        return None
    chosen = {recipe(name).name for name in names or ()}
    for fmt in formats or ():
        try:
            written = str(TensorFormat.parse(fmt))  # one spelling of the several that it may have
        except ValueError:
            written = fmt
        found = {
            r.name
            for r in RECIPES.values()
            if written in (str(r.activation), r.activation.element.name)
        }
        if not found:
            known = sorted({str(r.activation) for r in RECIPES.values()})
            raise ValueError(
                f"no recipe takes activations in {shown(fmt)}: choose from {', '.join(known)}"
            )
        chosen |= found
    return [name for name in RECIPES if name in chosen]


def sweep(
    file: str | Path,
    *,
    on: str | None = None,
    output: str | Path | None = None,
    max_measurements: int | None = None,
    time_limit: str | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> "Run":
    """Run, or go on with, the sweep that a YAML file describes; the other arguments override it.

    Raises:
        ValueError: the file, an override or the run folder does not allow it; the message says how
            to go on.
    """
    import tuning
    from workbench.sweepfile import load_sweepfile

    plan = load_sweepfile(Path(file)).to_plan(
        on=on,
        output=None if output is None else Path(output),
        max_measurements=max_measurements,
        time_limit=time_limit,
    )
    return tuning.run(plan, progress or (lambda _: None))


def unserved(file: str | Path) -> list[str]:
    """Problems of a sweep file that no chosen kernel family runs on its GPU, each with the reason.

    Raises:
        ValueError: the file is not a sweep file.
    """
    from workbench.sweepfile import load_sweepfile

    return [str(one) for one in load_sweepfile(Path(file)).unserved()]


def repair(study: str | Path) -> int:
    """Set aside what a journal holds after its last whole record; returns the number of bytes.

    Raises:
        ValueError: no such run folder, or it cannot be written.
    """
    import tuning

    return tuning.repair(Path(study))


def winners(run: "Run") -> dict[str, Any]:
    """The fastest correct configuration of every study, JSON-ready; predicted beside measured."""
    return {
        "schema": "tile-workbench/winners/1",
        "plan": dict(run.plan),
        "studies": [_winner(study) for study in run.studies],
    }


def _winner(study: "StudyRecord") -> dict[str, Any]:
    statuses = Counter(trial.measurement.status.value for trial in study.trials)
    entry: dict[str, Any] = {
        "problem": str(study.problem),
        "kernel": study.kernel,
        "path": study.path,
        "simulated": study.simulated,
        "environment": None if study.environment is None else study.environment.to_dict(),
        "legal_configurations": study.legal_size,
        "trials_by_status": dict(statuses),
        "rejected_by_rule": dict(study.rejected_by_rule),
        "stopped": study.stopped,
        "not_compared": study.not_compared,
    }
    best = study.best
    if best is None:
        return entry
    measurement = best.measurement
    outcome = {
        "time_us": measurement.time_us,
        "iqr_us": measurement.iqr_us,
        "samples": len(measurement.samples_us),
        "timing": measurement.timing,
        "accuracy": None if measurement.accuracy is None else asdict(measurement.accuracy),
    }
    return entry | {
        "config": best.config.to_dict(),
        "predicted": {
            "time_us": best.predicted_us,
            "interval_us": [best.predicted_low_us, best.predicted_high_us],
        },
        "simulated_outcome" if study.simulated else "measured": outcome,
    }


def emit(study: str | Path, output: str | Path, *, name: str | None = None) -> "EmittedPackage":
    """Write a pip-installable package with the winners of a run folder, and its wheel.

    Raises:
        ValueError: no such run, nothing correct in it, a bad name, or the output folder exists.
    """
    import tuning
    from workbench.emission import emit as emit_run

    return emit_run(tuning.load_run(Path(study)), Path(output), name=name)


def verify(package: str | Path, *, device: str = "auto") -> "VerifyReport":
    """Install a package into a throw-away environment and check it there.

    Raises:
        ValueError: not an emitted package, or the device is not there.
    """
    from workbench.verification import verify as verify_package

    return verify_package(Path(package), device=device)


def report(study: str | Path, output: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about a run folder; default ``<run>/report.html``.

    Raises:
        ValueError: no such run, or its journal is damaged.
    """
    import tuning
    from workbench.reporting import write_report

    folder = Path(study)
    target = folder / "report.html" if output is None else Path(output)
    return write_report(tuning.load_run(folder), target)
