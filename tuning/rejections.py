"""The configurations that a sweep's rules refused, as a packed table in the run folder."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import LegalSpace, Status
from tuning.plan import Plan, StudyPlan
from tuning.store import replace_file

__all__ = ["REJECTIONS", "write_rejections"]

REJECTIONS = "rejections.csv.gz"
#: Configurations that are written of one rule in one study.
MOST = 200


def write_rejections(plan: Plan, spaces: Iterable[tuple[StudyPlan, LegalSpace]]) -> None:
    """Write refused configurations with their rule and reason, unless it was done before.

    Of each rule in a study up to ``MOST``, spread over the space, and how many there are more: a
    space of 184 000 with 24 problems took minutes in which the GPU waited.  A file that was cut off
    since is written anew.

    The columns are problem, kernel, status, rule, reason, configuration (``name=value`` words).

    Raises:
        ValueError: the folder cannot be written, or holds something else of that name.
    """
    path = plan.folder / REJECTIONS
    if _is_whole(path):
        return
    buffer = io.BytesIO()
    # mtime=0: the same plan gives the same bytes.
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed:
        with io.TextIOWrapper(packed, encoding="utf-8", newline="") as text:
            rows = csv.writer(text)
            rows.writerow(("problem", "kernel", "status", "rule", "reason", "config"))
            for study, space in spaces:
                rows.writerows(_rejected_rows(study, space))
    replace_file(path, buffer.getvalue())


def _is_whole(path: Path) -> bool:
    """Whether a packed file is there and whole; its end holds its length and checksum."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path}: not a regular file: choose another output or delete it")
    try:
        with gzip.open(path) as file:
            return sum(map(len, iter(lambda: file.read(2**20), b""))) > 0
    except (OSError, EOFError, zlib.error):
        return False


def _rejected_rows(study: StudyPlan, space: LegalSpace) -> Iterator[tuple[str, ...]]:
    """The refused configurations of a study as text, ten times faster than by record."""
    shown, more = _shown(space)
    refused = np.sort(np.concatenate([np.empty(0, np.intp), *shown]))
    problem, status = str(study.problem), Status.CONSTRAINTS.value
    words = [
        [f"{name}={value}" for value in column[refused].astype(np.int64).tolist()]
        for name, column in space.table.columns.items()
    ]
    broken = space.first_broken[refused].tolist()
    for row, index, *config in zip(refused.tolist(), broken, *words, strict=True):
        rule = space.rules[index]
        yield problem, study.kernel, status, rule.name, rule.explain(row), " ".join(config)
    for rule, count in zip(space.rules, more, strict=True):
        if count:
            yield problem, study.kernel, status, rule.name, f"{count} more of this rule", ""


def _shown(space: LegalSpace) -> tuple[list[NDArray[np.intp]], list[int]]:
    """Of every rule the rows that are written, and how many are not."""
    shown, more = [], []
    for index in range(len(space.rules)):
        rows = np.flatnonzero(space.first_broken == index)
        places = np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.intp)
        shown.append(rows[places])
        more.append(len(rows) - len(places))
    return shown, more
