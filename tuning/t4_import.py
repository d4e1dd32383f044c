"""Run folders made of TuningSchema T4 files: our own, and those of other tuners."""

import contextlib
import gzip
import io
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from tiles.intake import read_bounded
from tuning.family import family
from tuning.journal import RunJournal
from tuning.journal_file import JOURNAL
from tuning.plan import Plan, StudyPlan
from tuning.store import load_run, quiet_optuna
from tuning.stored_plan import GPU_FILE, PLAN_FILE, UNFIT, unfit
from tuning.strategies.legal_table import LegalTable
from tuning.t4_schema import check_t4
from tuning.t4_study import T4Study, foreign_study, own_study

__all__ = ["Imported", "import_t4", "t4_files"]

MAX_FILE_BYTES = 2**30

#: How the names of T4 files end, as ``workbench export`` writes them and packed with gzip.
ENDINGS = (".t4.json", ".t4.json.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of the files."""

    folder: Path
    trials: int
    left_out: tuple[str, ...]  #: results that are no configuration of the kernel family, and why


def t4_files(path: Path) -> list[Path]:
    """The T4 files that a path stands for: itself, or those of a folder, sorted by name.

    A path that is neither, a run folder for one, stands for none.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS))
    return [path] if path.name.endswith((".json", ".json.gz")) else []


def import_t4(
    files: Sequence[Path],
    folder: Path,
    *,
    problem: str | None = None,
    kernel: str | None = None,
    gpu: str | None = None,
) -> Imported:
    """Write a run folder that holds the files' studies.

    Args:
        files: JSON, or JSON packed with gzip where the name ends in ``.gz``.
        folder: to be made.
        problem, kernel, gpu: what a file of another tuner does not say: its problem's text, a
            kernel family whose fields its configurations have, and a GPU by name or file.

    Raises:
        ValueError: a file is no T4 file, does not say what it measured, or they do not belong
            together; or the folder cannot be made.
    """
    read = []
    for path in files:
        try:
            read.append(_read(path, problem, kernel, gpu))
        except UNFIT as error:
            if isinstance(error, ValueError) and str(error).startswith(str(path)):
                raise
            raise ValueError(f"{path}: {unfit(error)}") from error
    plan = _one_plan(files, [file.plan for file in read])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists: choose another output or delete it")
    made = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        made.mkdir(parents=True)
        (made / GPU_FILE).write_text(read[0].gpu.text, encoding="utf-8")
        with quiet_optuna(), RunJournal(made / JOURNAL) as journal:
            storage = JournalStorage(journal)
            for file in read:
                _store(storage, file)
        (made / PLAN_FILE).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        try:
            load_run(made)
        except ValueError as error:
            message = str(error).replace(str(made), str(folder))
            raise ValueError(f"{files[0]}: makes no run: {message}") from error
        made.replace(folder)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be made: {error.strerror}: choose another output"
        ) from error
    except ValueError as error:  # nobody knows the name under which it is made
        raise ValueError(str(error).replace(str(made), str(folder))) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(made)
    return Imported(
        folder=folder,
        trials=sum(len(file.study.trials) for file in read),
        left_out=tuple(line for file in read for line in file.left_out),
    )


def _no_constant(text: str) -> float:
    raise ValueError(f"holds {text}, which is no JSON: write null or leave it out")


def _unpacked(path: Path, packed: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is no whole gzip file ({error}): fetch it anew") from error
    if len(text) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: takes at most {MAX_FILE_BYTES} bytes unpacked: split it")
    return text


def _read(path: Path, problem: str | None, kernel: str | None, gpu: str | None) -> T4Study:
    text = read_bounded(path, MAX_FILE_BYTES)
    if path.suffix == ".gz":
        text = _unpacked(path, text)
    try:
        read = json.loads(text, parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not JSON ({error}): give a T4 file, as workbench export writes them"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        data = check_t4(read)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    named = {"--problem": problem, "--kernel": kernel, "--gpu": gpu}
    if "workbench" in data:
        if given := [name for name, value in named.items() if value is not None]:
            raise ValueError(f"{path}: says itself what it holds: leave {given[0]} out")
        return own_study(data)
    if problem is None or kernel is None or gpu is None:
        missing = [name for name, value in named.items() if value is None]
        raise ValueError(f"{path}: does not say what was measured: add {', '.join(missing)}")
    return foreign_study(data, problem, kernel, gpu)


def _one_plan(files: Sequence[Path], plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plan of a sweep that had all the studies."""
    merged = {**plans[0], "studies": [], "sources": {}}
    for path, plan in zip(files, plans, strict=True):
        if not isinstance(plan, dict):
            raise ValueError(f"{path}: workbench.plan is no plan: export it anew")
        for key in plan.keys() | plans[0].keys():
            if key in ("studies", "sources"):
                continue
            if plan.get(key) != plans[0].get(key):
                raise ValueError(f"{path}: of another sweep than {files[0]} ({key} differs)")
        for kernel, digest in plan.get("sources", {}).items():
            if merged["sources"].setdefault(kernel, digest) != digest:
                raise ValueError(f"{path}: other kernel source than in {files[0]}")
        for study in plan["studies"]:
            if study in merged["studies"]:
                raise ValueError(f"{path}: holds a study that an earlier file holds")
            merged["studies"].append(study)
    if "sources" not in plans[0]:
        del merged["sources"]
    return merged


def _store(storage: JournalStorage, file: T4Study) -> None:
    """Write a study as a sweep would have."""
    study = file.study
    named = Plan(
        studies=(StudyPlan(problem=study.problem, kernel=study.kernel),),
        gpu=file.gpu,
        folder=Path(),
        simulate=study.simulated,
    )
    study_id = storage.create_new_study(
        [StudyDirection.MINIMIZE], named.study_name(named.studies[0])
    )
    attributes: dict[str, Any] = {
        "kernel": study.kernel,
        "gpu": study.gpu,
        "path": study.path,
        "simulated": study.simulated,
        "space_size": study.space_size,
        "legal_size": study.legal_size,
        "rejected_by_rule": dict(study.rejected_by_rule),
        "problem": str(study.problem),
        # The times are those of the comparison already.
        "compared": {
            "finished": len(study.trials),
            "timings": {},
            "failed": study.not_compared,
        },
    }
    if study.environment is not None:
        attributes["environment"] = study.environment.to_dict()
    if study.stopped:
        attributes["stopped"] = study.stopped
    # The plan's source is that of what would be measured next.
    if study.source:
        attributes["source"] = study.source
    if study.repeats:
        attributes["repeats"] = study.repeats
    for key, value in attributes.items():
        storage.set_study_user_attr(study_id, key, value)
    if not study.trials:
        return
    kernel = family(study.kernel)
    space = kernel.space(study.problem, file.gpu.limits)
    distributions = LegalTable(space, *(np.ones(len(space)),) * 3).space
    for trial in study.trials:
        value = study.objective.of(trial.measurement)
        energy = trial.predicted_energy_mj
        storage.create_new_trial(
            study_id,
            template_trial=create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=value,
                params=trial.config.to_dict(),
                distributions=distributions,
                user_attrs={
                    "predicted_us": trial.predicted_us,
                    "predicted_90_us": [trial.predicted_low_us, trial.predicted_high_us],
                    "measurement": trial.measurement.to_dict(),
                    **({"stale": trial.stale} if trial.stale else {}),
                    **({"outpaced": trial.outpaced} if trial.outpaced else {}),
                    **({} if energy is None else {"predicted_energy_mj": energy}),
                },
            ),
        )
