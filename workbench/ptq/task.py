"""What a quantised model is judged by: a trained model, data to calibrate on, and a score."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tiles.intake import nearest, shown

__all__ = ["Task", "load_task", "task_code"]


#: What code of a task's own raises where it, or a file of its, is not as it takes it to be.
_BREAKS = (
    OSError,
    EOFError,
    ImportError,
    SyntaxError,
    NameError,
    AttributeError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    pickle.UnpicklingError,
)


@contextmanager
def task_code(name: str, what: str) -> Iterator[None]:
    """Turn what breaks in a task's own code into a caller's mistake, which names task and part.

    Raises:
        ValueError: it broke, or ended the process; ``WORKBENCH_TRACEBACK=1`` shows where.
    """
    try:
        yield
    except SystemExit as error:
        raise ValueError(
            f"task {shown(name)}: {what} ended the process (exit code {error.code}): take that "
            "out, or put it under if __name__ == '__main__'"
        ) from error
    except ValueError as error:
        if str(error).startswith("task "):
            raise
        raise ValueError(f"task {shown(name)}: {what} failed: {error}") from error
    except _BREAKS as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"task {shown(name)}: {what} failed: {type(error).__name__}: {text}: mend it "
            "(WORKBENCH_TRACEBACK=1 shows where)"
        ) from error


@runtime_checkable
class Task(Protocol):
    """A model x data set pair."""

    @property
    def name(self) -> str:
        """What records and messages call it; an attribute will do."""

    def model(self) -> nn.Module:
        """The trained model in fp32 and eval mode, a fresh copy each call."""

    def calibration(self) -> list[tuple[torch.Tensor, ...]]:
        """Batches, each the positional arguments of one call of the model."""

    def score(self, model: nn.Module) -> float:
        """How well a model does on data that it was not calibrated on; higher is better."""


def load_task(text: str) -> Task:
    """The task that ``module:NAME`` names: a task, or a function without arguments that makes one.

    The module is looked for in the current folder first, which stays a place to import from: a
    task may import more when it is called.

    Raises:
        ValueError: no such module or name, or it names no task.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"task {shown(text)}: write module:NAME, as in my_tasks:ENCODER")
    found = _attribute(_imported(module, text), name, text)
    if isinstance(found, type) or not isinstance(found, Task):
        if not callable(found):
            raise ValueError(f"task {shown(text)}: is a {type(found).__name__}: {_RULE}")
        with task_code(text, f"{name}()"):
            found = found()
    if not isinstance(found, Task):
        raise ValueError(f"task {shown(text)}: made a {type(found).__name__}: {_RULE}")
    return found


_RULE = "a task has a name and the methods model, calibration and score"


def _imported(module: str, text: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with task_code(text, f"importing {shown(module)}"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            # A module that the task's own file imports is missing under its own name.
            missing = error.name or module
            raise ValueError(
                f"task {shown(text)}: no module {shown(missing)} in {here} or among the installed "
                "ones: check the name and the folder"
            ) from error


def _attribute(module: object, name: str, text: str) -> object:
    if not hasattr(module, name):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise ValueError(
            f"task {shown(text)}: the module has no {shown(name)}: "
            f"{nearest(name, known)}check the name"
        )
    found: object = getattr(module, name)
    return found
