"""What verification asks of the weight-only launcher: ours passes, careless ones fail."""

from types import SimpleNamespace
from typing import Any

import pytest

from sim import load_gpu
from tiles.kernels import kernel
from tiles.kernels.cuda import gemm_hopper_weight_only, gemm_hopper_weight_prefill
from tiles.kernels.hopper_weight_only_rules import panels_of
from tiles.problems import Gemm, parse_problem
from workbench.emission.functions import function_of
from workbench.verification.function_checks import Tuned
from workbench.verification.recorder import Recorder
from workbench.verification.weight_launcher import judge_launcher
from workbench.verification.weight_only_function import WeightOnlyFunctionChecks

FAMILY, PREFILL = "hopper_weight_only", "hopper_weight_prefill"
LAUNCHERS = {FAMILY: gemm_hopper_weight_only, PREFILL: gemm_hopper_weight_prefill}
PROBLEMS = ("gemm:16x64x512:w4a16-g128:bf16", "gemm:64x64x256:w8a16:fp32")


def _verdict(text: str, family: str = FAMILY, **changes: Any) -> dict[str, Any]:
    problem, limits = parse_problem(text), load_gpu("h200").limits
    function = function_of(family, problem)
    assert function is not None
    own = {name: getattr(LAUNCHERS[family], name) for name in ("options", "launch")}
    lines: list[dict[str, Any]] = []
    with Recorder(lines.append, "launcher") as check:
        judge_launcher(
            check,
            SimpleNamespace(**{**own, **changes}),
            layout=function.layout(family, problem, limits, any_gpu=False),
            out=problem.formats[-1],
            config=kernel(family).default(problem, limits).to_dict(),
        )
    return lines[0]


@pytest.mark.parametrize(
    ("problem", "family"), [*((p, FAMILY) for p in PROBLEMS), (PROBLEMS[1], PREFILL)]
)
def test_it_takes_its_configuration_and_refuses_the_rest(problem: str, family: str) -> None:
    verdict = _verdict(problem, family)
    assert verdict["status"] == "passed", verdict["detail"]
    assert verdict["detail"].startswith("takes the configuration; refuses rows off")


def _takes_all(*operands: Any, **told: Any) -> None:
    return None


def _refuses_all(*operands: Any, **told: Any) -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"launch": _takes_all}, "takes rows off a 16-byte boundary"),
        ({"launch": _refuses_all}, "refuses its own: no"),
        ({"options": lambda **formats: ("-arch=sm_90a",)}, "unknown field"),
    ],
)
def test_careless_ones_fail(changes: dict[str, Any], words: str) -> None:
    verdict = _verdict(PROBLEMS[0], **changes)
    assert verdict["status"] == "failed"
    assert words in verdict["detail"]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("cluster", [1, 2, 4, 8])
def test_shapes_of_checks_have_a_panel_for_each_cta_of_a_cluster(
    problem: str, cluster: int
) -> None:
    """Else the configuration that was tuned would not be the one that is checked."""
    family, text = kernel(FAMILY), parse_problem(problem)
    config = family.default(text, load_gpu("h200").limits).to_dict() | {"cluster": cluster}
    tuned = Tuned(kernel=FAMILY, problem=text, config=config)
    checks = WeightOnlyFunctionChecks()
    for shape in (checks.small(tuned), checks.tails(tuned, "cuda")):
        assert isinstance(shape, Gemm)
        panels = panels_of(shape)
        assert panels > max(cluster, 3)
        assert gemm_hopper_weight_only.ctas(shape.m, shape.n, panels, config, 132) % cluster == 0
