"""Without a GPU: whether a launcher of CuPy arrays takes what it must, and nothing else."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_launcher import expect_refusals
from workbench.verification.recorder import Recorder

__all__ = ["cupy_obstacle", "judge_arguments"]


def judge_arguments(
    check: Recorder,
    launch: Callable[..., Any],
    asked: Mapping[str, Any],
    wrong: Mapping[str, tuple[Mapping[str, Any], str]],
) -> None:
    """Whether a launcher takes its own arguments, and refuses others.

    Args:
        check: takes the verdict.
        launch: the launcher of a package.
        asked: good arguments, without memory behind them.
        wrong: by what they are: changes to the good ones, and words of the refusal.
    """
    expect_refusals(check, launch, asked, wrong)
    check.note(f"takes the configuration; refuses {', '.join(wrong)}")


def cupy_obstacle(module: Any, subject: Subject, tuned: Tuned, fallback: str) -> str:
    """Why a tuned kernel cannot run on the subject's device, by the package's own module; or ''."""
    if tuned.kernel == fallback:
        return ""
    found: str = module.obstacle(torch.device(subject.device))
    return found
