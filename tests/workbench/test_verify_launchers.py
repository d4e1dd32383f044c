"""What verification asks of launchers that cannot run here: ours pass, careless ones fail."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from sim import load_gpu
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.emission.functions import function_of
from workbench.verification.hopper_launcher import judge_launcher
from workbench.verification.recorder import Recorder

PRODUCTS = (
    ("hopper_gemm", "gemm:512x64x256:bf16:bf16"),
    ("hopper_gemm", "gemm:512x64x256:e5m2-tensor:bf16"),
    ("hopper_gemm", "gemm:512x64x256:deepseek-fp8:bf16"),
    ("hopper_gemm", "gemm:64x96x256:fp16:fp16"),
    ("hopper_gemm", "gemm:16x96x256:unit-scaling:fp32"),
    ("hopper_gemm", "gemm:64x96x256:int8-row:fp32"),
    ("hopper_gemm", "gemm:1x128x256:int8-b128:bf16"),
    ("hopper_gemm", "gemm:64x96x256:e5m2-b128:bf16"),
    ("hopper_skinny_gemm", "gemm:16x256x4096:int8-row:bf16"),
    ("hopper_skinny_gemm", "gemm:16x256x4096:mxfp8-e4m3:bf16"),
    ("hopper_aligned_gemm", "gemm:512x128x256:mxfp8-e4m3:bf16"),
    ("hopper_block_gemm", "gemm:512x64x256:jetfire:bf16"),
    ("hopper_block_gemm", "gemm:512x64x256:jetfire:int8.b32x32+sr"),
    ("hopper_block_gemm", "gemm:512x64x256:mxfp8-e4m3:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:4x512x64x256:deepseek-fp8:contiguous:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:4x512x64x256:int8-row:contiguous:bf16"),
)


def _verdict(family: str, text: str, **changes: Any) -> dict[str, Any]:
    problem, limits = parse_problem(text), load_gpu("h200").limits
    function = function_of(family, problem)
    assert function is not None
    name = kernel(family).template.stem
    template = importlib.import_module(f"tiles.kernels.cuda.{name}")
    lines: list[dict[str, Any]] = []
    with Recorder(lines.append, "launcher") as check:
        judge_launcher(
            check,
            SimpleNamespace(
                **{name: getattr(template, name) for name in template.__all__} | changes
            ),
            layout=function.layout(family, problem, limits, any_gpu=False),
            out=problem.formats[-1],
            config=kernel(family).default(problem, limits).to_dict(),
            both=family == "hopper_block_gemm",
            experts=4 if family == "hopper_grouped_gemm" else 0,
        )
    return lines[0]


@pytest.mark.parametrize(("family", "problem"), PRODUCTS)
def test_launchers_take_their_configurations_and_refuse_the_rest(family: str, problem: str) -> None:
    verdict = _verdict(family, problem)
    assert (verdict["status"], verdict["detail"][:23]) == ("passed", "takes the configuration"), (
        verdict["detail"]
    )


def _takes_all(**arguments: Any) -> None:
    return None


def _refuses_all(**arguments: Any) -> None:
    raise ValueError("no")


def _refuses_for_another_reason(**arguments: Any) -> None:
    if arguments["c"].shape[1] != 128:
        raise ValueError("a_scale is missing")


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        (_takes_all, "takes rows off a 16-byte boundary"),
        (_refuses_all, "refuses its own: no"),
        (_refuses_for_another_reason, "takes rows off a 16-byte boundary"),
    ],
)
def test_careless_launchers_fail(launch: Any, words: str) -> None:
    verdict = _verdict(*PRODUCTS[2], launch=launch)
    assert verdict["status"] == "failed"
    assert words in verdict["detail"]


def test_options_that_take_any_field_fail() -> None:
    verdict = _verdict(*PRODUCTS[0], options=lambda **formats: ("-arch=sm_90a",))
    assert verdict["status"] == "failed"
    assert "unknown field" in verdict["detail"]
