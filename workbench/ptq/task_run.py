"""A task, quantised and scored."""

from collections.abc import Callable, Sequence

from torch import nn

from tiles.intake import shown
from tiles.recipes import Recipe
from workbench.nn.backend import Backend
from workbench.ptq.calibrate import check_batches
from workbench.ptq.quantize import quantize
from workbench.ptq.quantized import Quantized
from workbench.ptq.scheme import Scheme
from workbench.ptq.search import Trial
from workbench.ptq.task import Task, task_code

__all__ = ["quantize_task"]


def quantize_task(
    task: Task,
    recipe: str | Recipe,
    *,
    scheme: str | Scheme = "standard",
    criterion: float = 0.01,
    keep: str | Sequence[str] = (),
    backend: Backend | None = None,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> Quantized:
    """Quantise a task's model, calibrated on its data and judged by its score.

    Args and errors are those of :func:`workbench.ptq.quantize`, but that whatever is wrong with the
    task is a ``ValueError``.
    """
    name = str(task.name)
    with task_code(name, "model()"):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"task {shown(task.name)}: its model() made a {type(model).__name__}, no torch module"
        )
    try:
        with task_code(name, "calibration()"):
            given = list(task.calibration())
        batches = check_batches(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task {shown(task.name)}: {error}") from error

    def score(candidate: nn.Module) -> float:
        with task_code(name, "score()"):
            return task.score(candidate)

    return quantize(
        model,
        recipe,
        calibration=batches,
        scheme=scheme,
        score=score,
        criterion=criterion,
        keep=keep,
        backend=backend,
        progress=progress,
    )
