"""Without a GPU: whether launchers of quantisation take what they must, and nothing else."""

from typing import Any

from tiles.formats.rounding import Rounding
from tiles.problems import Quantize
from workbench.verification.cupy_launcher import judge_arguments
from workbench.verification.hopper_launcher import fake_array
from workbench.verification.recorder import Recorder

__all__ = ["SEED", "judge_nvfp4_launcher", "judge_quantize_launcher"]

#: Key of stochastic rounding.
SEED = 0x1234_5678_9ABC


def judge_quantize_launcher(
    check: Recorder, template: Any, problem: Quantize, choice: Any, *, columns: bool = False
) -> None:
    """Whether the launcher takes the tuned configuration, and refuses bad arguments.

    Args:
        check: takes the verdict.
        template: the package's launcher.
        problem: the tuned one, with its transposed copy if wanted.
        choice: what the package runs for it.
        columns: of the scales the columns are contiguous, not the rows.
    """
    (rows, cols), target = problem.shape, problem.target
    assert target.scaling is not None
    down, right = target.scaling.grid(rows, cols)
    element = target.element.name
    asked: dict[str, Any] = {
        "x": fake_array((rows, cols), problem.source),
        "codes": fake_array((rows, cols), element),
        "scales": fake_array((down, right), "fp32", columns=columns),
        "source": problem.source,
        "target": element,
        "block": choice.file.layout["block"],
        "seed": SEED if target.rounding is Rounding.STOCHASTIC else None,
        "config": dict(choice.config),
    }
    if problem.transposed:
        asked |= {
            "codes_t": fake_array((cols, rows), element),
            "scales_t": fake_array((right, down), "fp32"),
        }
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "codes of another shape": (
            {"codes": fake_array((rows + 1, cols), element)},
            "codes has shape",
        ),
        "scales off the grid": ({"scales": fake_array((down + 1, right), "fp32")}, "scales"),
        "a configuration with an unknown field": (
            {"config": {**choice.config, "warps": 4}},
            "warps",
        ),
    }
    judge_arguments(check, template.launch, asked, wrong)


def judge_nvfp4_launcher(check: Recorder, template: Any, problem: Quantize, choice: Any) -> None:
    """The same of ``cuda_quantize_nvfp4``."""
    rows, cols = problem.shape
    asked: dict[str, Any] = {
        "x": fake_array((rows, cols), problem.source),
        "codes": fake_array((rows, cols // 2), "uint8"),
        "scales": fake_array((rows, cols // 16), "uint8"),
        "tensor_scale": fake_array((1,), "fp32"),
        "workspace": fake_array((3,), "int32"),
        "config": dict(choice.config),
    }
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "codes of another shape": (
            {"codes": fake_array((rows, cols), "uint8")},
            "codes has shape",
        ),
        "a short workspace": ({"workspace": fake_array((2,), "int32")}, "workspace has shape"),
        "an input off 16 bytes": ({"x": fake_array((rows, cols), problem.source, off=8)}, "x "),
        "a configuration with an unknown field": (
            {"config": {**choice.config, "warps": 4}},
            "warps",
        ),
    }
    judge_arguments(check, template.launch, asked, wrong)
