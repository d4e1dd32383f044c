"""The target ``kernel-tuner-t4``, and what ``workbench export`` writes: studies as T4 files."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tiles.intake import nearest, shown
from workbench.outfile import check_outfile, write_outfile

if TYPE_CHECKING:
    from tuning.records import Run, StudyRecord

__all__ = ["check_output", "chosen_studies", "write"]


def check_output(file: Path) -> bool:
    """Refuse a T4 file that must not be replaced; returns whether ``file`` is a folder of them.

    Raises:
        ValueError: it must not.
    """
    from tuning.t4 import STUDY_SCHEMA

    into = file.suffix != ".json"
    if not into:
        check_outfile(file, STUDY_SCHEMA)
    return into


def write(
    run: "Run", output: Path, *, problem: str | None = None, kernel: str | None = None
) -> list[Path]:
    """Write studies as TuningSchema T4 files, which other tuners and their tools read.

    A study that cannot be written takes nothing from the others: they are written, then it is told.

    Args:
        run: a run.
        output: a name that ends in ``.json``, or a folder for all chosen studies.
        problem, kernel: which studies; all when None.
    Returns:
        The files that were written.
    Raises:
        ValueError: no such study, several for one file, or one that cannot be written.
    """
    from tuning.t4 import study_to_t4, t4_text

    into = check_output(output)
    chosen = chosen_studies(run, problem, kernel)
    if not into and len(chosen) > 1:
        raise ValueError(
            f"{run.folder} holds {len(chosen)} studies, a T4 file one: choose with --problem and "
            f"--kernel, or name a folder: {output.with_suffix('')}"
        )
    written, failed = [], []
    for index, one in chosen:
        path = output / _file_name(index, one) if into else output
        try:
            write_outfile(path, t4_text(study_to_t4(run, one)))
        except ValueError as error:
            failed.append(f"{one.problem} with {one.kernel}: {error}")
        else:
            written.append(path)
    if failed and not written:
        raise ValueError(failed[0])
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ValueError(
            f"{len(written)} of {len(chosen)} studies are in {output}, not {failed[0]}{more}"
        )
    return written


def chosen_studies(
    run: "Run", problem: str | None, kernel: str | None
) -> "list[tuple[int, StudyRecord]]":
    """Studies with their place in the run, which keeps files in order.

    Raises:
        ValueError: none is left.
    """
    found = [
        (index, one)
        for index, one in enumerate(run.studies)
        if problem in (None, str(one.problem)) and kernel in (None, one.kernel)
    ]
    if not found:
        wanted = " with ".join(shown(name) for name in (problem, kernel) if name is not None)
        known = list(dict.fromkeys(str(one.problem) for one in run.studies))
        raise ValueError(
            f"{run.folder} has no study of {wanted}: {nearest(problem, known)}choose one of "
            f"{', '.join(known[:5])}"
            if known
            else f"{run.folder} holds no study yet: finish its sweep first"
        )
    return found


def _file_name(index: int, study: "StudyRecord") -> str:
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{study.problem}_{study.kernel}")
    return f"{index:03d}_{plain}.t4.json"
