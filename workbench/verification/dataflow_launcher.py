"""Without a GPU: whether a launcher of a dataflow operator takes what it must, and nothing else."""

from typing import Any

from tiles.formats import Rounding
from tiles.problems import DATAFLOW_OPS, Dataflow
from workbench.verification.cupy_launcher import judge_arguments
from workbench.verification.hopper_launcher import fake_array
from workbench.verification.recorder import Recorder

__all__ = ["judge_launcher"]


def judge_launcher(check: Recorder, template: Any, problem: Dataflow, choice: Any) -> None:
    """Whether a launcher takes a configuration at the tuned shape, and refuses bad arguments.

    Args:
        check: takes the verdict.
        template: the launcher's module in the package.
        problem: the tuned one.
        choice: the package's.
    """
    asked = _arguments(template, problem, choice)
    rows, cols = problem.shape
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "an output of another shape": (
            {"out": fake_array((rows + 1, cols), problem.target.element.name)},
            "out has shape",
        ),
        "scales off the grid": ({"x_scales": fake_array((rows + 1, 1), "fp32")}, "x_scales"),
        "an output on top of its input": ({"out": asked["x"]}, "overlaps"),
        "a vector that the operator does not read": (
            {"d_beta" if "other" in template.prepare.__kwdefaults__ else "beta": asked["x_scales"]},
            "beta",
        ),
        "a configuration with an unknown field": (
            {"config": {**choice.config, "warps": 4}},
            "warps",
        ),
    }
    if "beta" in asked or "d_beta" in asked:
        del wrong["a vector that the operator does not read"]
    judge_arguments(check, template.launch, asked, wrong)


def _arguments(template: Any, problem: Dataflow, choice: Any) -> dict[str, Any]:
    """Good arguments of a launch, without memory behind them."""
    (rows, cols), op, target = problem.shape, problem.op, problem.target
    assert target.scaling is not None
    block = (target.scaling.rows or rows, target.scaling.cols or cols)
    grid = (-(-rows // block[0]), -(-cols // block[1]))
    element = target.element.name

    def matrix(name: str) -> dict[str, Any]:
        codes = fake_array((rows, cols), element)
        return {name: codes, f"{name}_scales": fake_array(grid, "fp32")}

    matrices, row_vectors, _ = DATAFLOW_OPS[op]
    kind, _, way = op.partition("-")
    norm = kind in ("layernorm", "rmsnorm")
    arguments = matrix("x") | matrix("out")
    if matrices > 1:
        arguments |= matrix("dy" if "dy" in template.prepare.__kwdefaults__ else "other")
    if row_vectors:
        arguments |= {name: fake_array((rows,), "fp32") for name in ("mean", "variance")}
    columns = ["gamma"] if norm else []
    columns += ["beta"] if kind == "layernorm" and way != "bwd" else []
    if norm and way == "bwd":
        columns += ["d_gamma", "d_beta"] if kind == "layernorm" else ["d_gamma"]
        sums = template.partial_sums(
            op=op, shape=(rows, cols), block=block, config=dict(choice.config)
        )
        arguments["partials"] = fake_array(sums, "fp32")
    arguments |= {name: fake_array((cols,), "fp32") for name in columns}
    return arguments | {
        "op": op,
        "element": element,
        "block": block,
        "stochastic": target.rounding is Rounding.STOCHASTIC,
        "config": dict(choice.config),
    }
