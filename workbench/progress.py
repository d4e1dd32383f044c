"""Progress bars on stderr: of a sweep, of a replay, and of a checkpoint's weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from workbench.printable import printable

if TYPE_CHECKING:
    from tuning import Progress
    from workbench.checkpoint import StoredTensor

__all__ = ["counted_progress", "sweep_progress", "weights_progress"]


@contextmanager
def sweep_progress(*, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """A callback for ``tuning.run`` that draws on stderr; ``quiet`` draws nothing."""
    if quiet:
        yield lambda progress: None
        return
    bar = Bar(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.fields[best]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("sweep", total=None, counts="", best="")

    def show(progress: "Progress") -> None:
        bar.start()  # not before there is something to show: a refused sweep prints its error alone
        share = 1.0 if progress.stopped else progress.finished / max(1, progress.budget)
        bar.update(
            task,
            description=f"{progress.study.problem} {progress.study.kernel}",
            total=progress.studies,
            completed=progress.index + share,
            counts=f"study {progress.index + 1}/{progress.studies}, trial {progress.finished}",
            best=_best(progress),
        )

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def _best(progress: "Progress") -> str:
    if progress.best is None:
        return ""
    value = progress.objective.of(progress.best.measurement)
    if value is None:
        return ""
    label = " (simulated)" if progress.best.measurement.simulated else ""
    return f"best {progress.objective.text(value)}{label}"


@contextmanager
def weights_progress(*, quiet: bool) -> "Iterator[Callable[[StoredTensor, int, int], None]]":
    """A callback for ``workbench.error`` that draws on stderr; ``quiet`` draws nothing."""
    if quiet:
        yield lambda tensor, done, total: None
        return
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("", total=None)

    def show(tensor: "StoredTensor", done: int, total: int) -> None:
        bar.start()
        bar.update(task, description=printable(tensor.name, 48), total=total, completed=done)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


@contextmanager
def counted_progress(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback that takes how many are done, of how many; ``quiet`` draws nothing."""
    if quiet:
        yield lambda done, of: None
        return
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(name, total=None)

    def show(done: int, of: int) -> None:
        bar.start()
        bar.update(task, total=of, completed=done)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()
