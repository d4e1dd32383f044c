"""A progress bar for sweeps: studies, best so far, time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from tuning import Progress

__all__ = ["sweep_progress"]


@contextmanager
def sweep_progress(*, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """A callback for ``tuning.run`` that draws on stderr; ``quiet`` draws nothing."""
    if quiet:
        yield lambda progress: None
        return
    bar = Bar(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[best]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("sweep", total=None, best="")

        def show(progress: "Progress") -> None:
            best = "" if progress.best_us is None else f"best {progress.best_us:.1f} us"
            bar.update(
                task,
                description=progress.study,
                completed=progress.done,
                total=progress.total,
                best=best + (" (simulated)" if progress.simulated and best else ""),
            )

        yield show
