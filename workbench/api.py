"""The verbs of the workbench as Python functions; the command line calls exactly these."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.calibration.folder import NO_CALIBRATION, choose_calibration
from tiles.formats import TensorFormat
from tiles.intake import shown
from tiles.recipes import RECIPES, recipe
from workbench.arguments import count_of, items_of, path_of
from workbench.emission.targets import DEFAULT
from workbench.emission.targets import target as find_target
from workbench.promotions import refuse_unfinished
from workbench.shared import load_study, stale_lines

if TYPE_CHECKING:
    from sim.calibration import Calibration
    from tuning import Plan, Progress, Run, StudyRecord
    from workbench.emission.emitted import Emitted
    from workbench.verification import VerifyReport

__all__ = ["emit", "repair", "report", "select_recipes", "sweep", "unserved", "verify", "winners"]


def select_recipes(
    names: Sequence[str] | str | None = None, formats: Sequence[str] | str | None = None
) -> list[str] | None:
    """Recipes by name, and every recipe whose activations take one of the given formats.

    Args:
        names: recipe names.
        formats: element (``e4m3fn``) or tensor formats (``e4m3fn.row``).
    Returns:
        Recipe names in the catalogue's order, or ``None`` when nothing was asked for.
    Raises:
        ValueError: an unknown recipe, or a format that no recipe uses.
        TypeError: an argument that is neither texts nor a text.
    """
    asked = items_of("names", names, str, "names of recipes")
    wanted = items_of("formats", formats, str, "texts of formats")
    if not asked and not wanted:
        return None
    chosen = {recipe(name).name for name in asked}
    for fmt in wanted:
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
    objective: str | None = None,
    storage: str | None = None,
    study: str | None = None,
    retry_failures: bool = False,
    revalidate: bool = False,
    allow_stale: bool = False,
    calibration: str | Path | None = None,
    progress: "Callable[[Progress], None] | None" = None,
) -> "Run":
    """Run, or go on with, the sweep that a YAML file describes; the other arguments override it.

    Args:
        objective: ``"time"``, or ``"energy"`` for the least energy a launch.
        storage: URL of a shared PostgreSQL storage, which holds the record instead of a run folder.
        study: the sweep's name in the storage; by default the name of the run folder.
        retry_failures: launch also what failed before with the same source and versions.
        revalidate: measure the stored winners and their runners-up again, and nothing else.
        allow_stale: go on where driver, versions or device are not those that are stored.
        calibration: the path of a calibration file; ``"none"`` for none; ``None`` for the one that
            the run folder was begun with or, at the beginning, the user's own of that GPU.

    Raises:
        ValueError: the file, an override, the run folder or the storage does not allow it; the
            message says how to go on.
        TypeError: an argument of another type.
    """
    import tuning
    from tuning.sweep import Again
    from workbench.sweepfile import load_sweepfile

    if revalidate and allow_stale:
        raise ValueError("--revalidate and --allow-stale exclude each other: choose one")
    if storage is None and study is not None:
        raise ValueError("--study names a sweep in a shared storage: add --storage URL")
    if storage is not None and output is None:
        output = study

    plan = load_sweepfile(path_of("file", file)).to_plan(
        on=on,
        output=None if output is None else path_of("output", output),
        max_measurements=(
            None if max_measurements is None else count_of("max_measurements", max_measurements)
        ),
        time_limit=time_limit,
        objective=objective,
    )
    tell = progress or (lambda _: None)
    again = Again.REVALIDATE if revalidate else Again.ALLOW if allow_stale else Again.REFUSE
    if storage is None:
        plan = replace(plan, calibration=_calibration(plan, calibration))
        return tuning.run(plan, tell, retry_failures=retry_failures, again=again)
    if calibration not in (None, NO_CALIBRATION):
        raise ValueError(
            "a sweep in a shared storage takes no calibration: leave it out, or use a run folder"
        )
    name = study or plan.folder.name
    plan = replace(plan, folder=Path(name), shared_name=name)
    return tuning.run_shared(plan, storage, tell, retry_failures=retry_failures, again=again)


def _calibration(plan: "Plan", asked: str | Path | None) -> "Calibration | None":
    """What a sweep's predictions rest on; a sweep that was begun keeps to what it began with."""
    from tuning.stored_plan import CALIBRATION_FILE, PLAN_FILE

    if asked is None and (plan.folder / PLAN_FILE).exists():
        kept = plan.folder / CALIBRATION_FILE
        asked = kept if kept.exists() else NO_CALIBRATION
    return choose_calibration(asked, plan.gpu).calibration


def unserved(file: str | Path, *, on: str | None = None) -> list[str]:
    """What a sweep file leaves out, each with the reason.

    That is problems that no chosen kernel family runs on its GPU, and families that a simulated
    sweep has no cost model for.

    Args:
        on: like that of :func:`sweep`.

    Raises:
        ValueError: the file is not a sweep file, or ``on`` is malformed.
    """
    from workbench.sweepfile import load_sweepfile

    read = load_sweepfile(path_of("file", file))
    return [*map(str, read.unserved()), *read.unsimulated(on)]


def repair(study: str | Path) -> int:
    """Set aside what a journal holds after its last whole record; returns the number of bytes.

    Raises:
        ValueError: no such run folder, or it cannot be written.
    """
    import tuning

    return tuning.repair(path_of("study", study))


def winners(run: "Run") -> dict[str, Any]:
    """The winner of every study, JSON-ready; predicted beside measured."""
    from tuning.staleness import host_environment, staleness

    here = host_environment()
    return {
        "schema": "tile-workbench/winners/1",
        "plan": dict(run.plan),
        "studies": [_winner(study, staleness(study, here)) for study in run.studies],
    }


def _winner(study: "StudyRecord", stale: list[str]) -> dict[str, Any]:
    from tuning.objective import Objective

    statuses = Counter(trial.measurement.status.value for trial in study.trials)
    entry: dict[str, Any] = {
        "problem": str(study.problem),
        "kernel": study.kernel,
        "path": study.path,
        "simulated": study.simulated,
        "objective": study.objective.value,
        "environment": None if study.environment is None else study.environment.to_dict(),
        "legal_configurations": study.legal_size,
        "trials_by_status": dict(statuses),
        "rejected_by_rule": dict(study.rejected_by_rule),
        "stopped": study.stopped,
        "not_compared": study.not_compared,
        "stale": stale,
    }
    best = study.best
    if best is None:
        return entry
    measurement = best.measurement
    predicted: dict[str, Any] = {
        "time_us": best.predicted_us,
        "interval_us": [best.predicted_low_us, best.predicted_high_us],
    }
    outcome: dict[str, Any] = {
        "time_us": measurement.time_us,
        "iqr_us": measurement.iqr_us,
        "samples": len(measurement.samples_us),
        "timing": measurement.timing,
        "accuracy": None if measurement.accuracy is None else asdict(measurement.accuracy),
    }
    if study.objective is Objective.ENERGY:
        predicted["energy_mj"] = best.predicted_energy_mj
        outcome["energy"] = None if measurement.energy is None else measurement.energy.to_dict()
    return entry | {
        "config": best.config.to_dict(),
        "predicted": predicted,
        "simulated_outcome" if study.simulated else "measured": outcome,
    }


def emit(
    study: str | Path,
    output: str | Path,
    *,
    target: str = DEFAULT,
    name: str | None = None,
    storage: str | None = None,
    allow_stale: bool = False,
    **options: Any,
) -> "Emitted":
    """Write what ships of a sweep: by default a pip-installable package of its winners.

    Args:
        study: a run folder or, with a storage, the name of a sweep.
        output: folder to create, or what the target takes.
        target: one of :data:`workbench.emission.targets.TARGETS`.
        name: of the package.
        storage: URL of a shared storage.
        allow_stale: also where driver or versions have changed since; the evidence names those of
            the measurement.  A changed kernel source is refused all the same: what ships must be
            what was measured.
        options: of the target, e.g. ``rows_loss=0.02`` for as few M as lose at most 2 %.

    Returns:
        An ``EmittedPackage`` for ``"wheel"``; ``lines()`` and ``to_dict()`` say what was written.

    Raises:
        ValueError: no such run or target, nothing correct in it, its results are stale, a bad name
            or option, or the output folder exists.
    """
    chosen = find_target(target)
    folder = path_of("output", output)
    source = path_of("study", study)
    if storage is None:
        refuse_unfinished(source)
    run = load_study(study, storage)
    stale = [] if allow_stale else stale_lines(run)
    if stale:
        more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
        raise ValueError(
            f"{run.folder} is stale: {stale[0]}{more}: measure its winners again with "
            "`workbench sweep FILE --revalidate`, or emit with --allow-stale"
        )
    return chosen.write(run, folder, name=name, **options)


def verify(package: str | Path, *, device: str = "auto") -> "VerifyReport":
    """Install a package into a throw-away environment and check it there.

    Raises:
        ValueError: not an emitted package, or the device is not there.
    """
    from workbench.verification import verify as verify_package

    return verify_package(path_of("package", package), device=device)


def report(
    study: str | Path, output: str | Path | None = None, *, storage: str | None = None
) -> Path:
    """Write one self-contained HTML page about a sweep, or a site about a folder of many.

    Args:
        study: a run folder; a folder with run folders in it, and packages and answers of other
            verbs; or, with a storage, the name of a sweep.
        output: default ``<run>/report.html``, or ``<name>.html`` for one in a storage; of a site
            the folder, ``<folder>/site``.
        storage: URL of a shared storage.

    Returns:
        The page; of a site its first one.

    Raises:
        ValueError: no such run, or its journal is damaged; a folder with nothing to report; or an
            output that is something else than an older one of the same kind.
    """
    from workbench.reporting import write_report

    source = path_of("study", study)
    if storage is None and source.is_dir():
        from workbench.reporting.site import is_run_folder, write_site

        if not is_run_folder(source):
            place = source / "site" if output is None else path_of("output", output)
            return write_site(source, place)
    default = Path(f"{study}.html") if storage is not None else source / "report.html"
    target = default if output is None else path_of("output", output)
    return write_report(load_study(study, storage), target)
