"""What is done with finished studies: replayed, exported, imported."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tiles.intake import nearest, shown
from workbench.shared import load_study

if TYPE_CHECKING:
    from tuning.records import Run
    from tuning.replay import Replay
    from tuning.t4_import import Imported

__all__ = ["export", "import_t4", "replay"]


def replay(
    study: str | Path,
    *,
    strategies: Sequence[str] | None = None,
    seeds: int = 50,
    max_measurements: int = 32,
    problems: Sequence[str] = (),
    storage: str | None = None,
    sample: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> "Replay":
    """Let strategies search the studies of a run folder again, from what was measured.

    Args:
        study: a run folder whose studies measured every legal configuration; or a T4 file of
            such a study, or a folder of them.
        strategies: hybrid, model, tpe, random, exhaustive; the first four when None.
        seeds: searches a strategy.
        max_measurements: the budget of one search.
        problems: only the studies of these problems; all when empty.
        storage: URL of a shared storage; ``study`` is then the name of a sweep.
        sample: accept studies of a random sweep that measured a part of their space, and take
            that part for the whole.
        progress: told how many searches are done, of how many.

    Raises:
        ValueError: no such run, it is not finished or not exhaustive, or a bad argument.
    """
    import tuning
    from tuning.replay import COMPARED
    from tuning.replay import replay as replay_run

    known = [one.value for one in tuning.Strategy]
    for name in strategies or ():
        if name not in known:
            raise ValueError(
                f"unknown strategy {shown(name)}: {nearest(name, known)}choose from "
                f"{', '.join(known)}"
            )
    with _loaded(study, storage) as run:
        return replay_run(
            run,
            [tuning.Strategy(name) for name in strategies] if strategies else COMPARED,
            seeds=seeds,
            max_measurements=max_measurements,
            problems=problems,
            sample=sample,
            progress=progress or (lambda done, of: None),
        )


@contextlib.contextmanager
def _loaded(study: str | Path, storage: str | None) -> "Iterator[Run]":
    """A run, or what T4 files hold as one."""
    from tuning.t4_import import import_t4, t4_files

    files = t4_files(Path(study)) if storage is None else []
    if not files:
        yield load_study(study, storage)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield load_study(import_t4(files, Path(scratch) / Path(study).name).folder, None)


def export(
    study: str | Path,
    file: str | Path,
    *,
    to: str = "t4",
    problem: str | None = None,
    kernel: str | None = None,
    storage: str | None = None,
) -> list[Path]:
    """Write studies of a run folder for others: TuningSchema T4 files, or a data set.

    Args:
        study: a run folder.
        file: for ``t4`` a name that ends in ``.json``, or a folder for all chosen studies; for
            ``parquet`` the folder of the data set.
        to: ``t4``, or ``parquet``: one file of all correct timings and a card about them.
        problem, kernel: which studies; all when None.
        storage: URL of a shared storage; ``study`` is then the name of a sweep.

    Returns:
        The files that were written.

    Raises:
        ValueError: no such run or study, several studies for one T4 file, a simulated run for a
            data set, or it cannot be written.
    """
    from workbench.emission import t4_files

    if to not in ("t4", "parquet"):
        raise ValueError(f"--to takes t4 or parquet, got {shown(to)}: correct it")
    target = Path(file)
    if to == "t4":
        t4_files.check_output(target)
        return t4_files.write(load_study(study, storage), target, problem=problem, kernel=kernel)
    from workbench.data_card import write_data_set

    run = load_study(study, storage)
    chosen = t4_files.chosen_studies(run, problem, kernel)
    return write_data_set(replace(run, studies=tuple(one for _, one in chosen)), target)


def import_t4(
    files: Sequence[str | Path] | str | Path,
    output: str | Path,
    *,
    problem: str | None = None,
    kernel: str | None = None,
    gpu: str | None = None,
) -> "Imported":
    """Make a run folder of T4 files, or of folders of them.

    See :func:`tuning.t4_import.import_t4`.

    Raises:
        ValueError: a file is no T4 file or does not say what it measured, or the folder exists.
    """
    from tuning.t4_import import import_t4 as import_files
    from tuning.t4_import import t4_files

    paths = [Path(path) for path in ([files] if isinstance(files, str | Path) else files)]
    for path in paths:
        if path.is_dir() and not t4_files(path):
            raise ValueError(
                f"{path}: holds no T4 file, NAME.t4.json or NAME.t4.json.gz: name one, or a folder "
                "of them"
            )
    named = [file for path in paths for file in t4_files(path) or [path]]
    return import_files(named, Path(output), problem=problem, kernel=kernel, gpu=gpu)
