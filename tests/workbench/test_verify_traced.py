"""What verification compiles on a GPU is traced into one graph, every function of a package.

Dynamo goes through a call without running it, so the backend ends it before any kernel is wanted.
"""

import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported
from torch._dynamo.exc import BackendCompilerFailed

from workbench.emission import emit
from workbench.emission.evidence import EVIDENCE
from workbench.verification import gemm_torch, operator_checks
from workbench.verification.function_checks import Subject
from workbench.verification.functions import CHECKS
from workbench.verification.gemm_function import GemmFunctionChecks
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder

NAME = "traced_pack"
ENTRIES = (
    ("triton_gemm", "gemm:64x64x256:deepseek-fp8:bf16"),
    ("triton_weight_only", "gemm:16x64x512:w4a16-g128:bf16"),
    ("triton_decoded_gemm", "gemm:16x64x256:nvfp4:bf16"),
    ("triton_grouped_gemm", "grouped_gemm:4x512x64x256:e4m3-row:gathered.2:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:4x512x64x256:deepseek-fp8:masked.256:bf16"),
    ("triton_quantize_tiles", "quantize:64x256:int8.b32x32+sr:bf16:transposed"),
    ("triton_quantize_tiles", "quantize:128x256:nvfp4:fp32:swizzled"),
    ("hopper_block_gemm", "gemm:512x64x256:jetfire:int8.b32x32+sr"),
    ("triton_batched_gemm", "batched_gemm:8x64x64x256:int8-row:kn:bf16"),
    ("triton_outlier_gemm", "gemm:64x64x256:llm-int8:bf16"),
    ("triton_dequantize", "dequantize:64x256:int8.b32x32:bf16"),
    ("triton_transpose", "transpose:64x256:e4m3fn"),
    ("cuda_dataflow_blocks", "dataflow:256x96:dropout:int8.b32x32"),
    ("cuda_dataflow_rows", "dataflow:256x96:residual:int8.b32x32+sr"),
)


class Traced(Exception):
    """The call became a graph."""


def judge_traced(check: Recorder, call: Callable[[], Any]) -> None:
    """In place of ``judge_compiled``, which runs what was compiled."""

    def backend(graph: object, inputs: object) -> Any:
        raise Traced

    torch.compiler.reset()
    try:
        torch.compile(call, fullgraph=True, backend=backend)()
    except BackendCompilerFailed as error:
        check.expect(isinstance(error.inner_exception, Traced), str(error))
    else:
        check.expect(False, "no graph came of it")


@pytest.mark.slow
def test_every_function_is_traced_into_one_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (operator_checks, gemm_torch):
        monkeypatch.setattr(module, "judge_compiled", judge_traced)
    for name in ("judge_captured", "judge_seeds"):
        monkeypatch.setattr(operator_checks, name, lambda *_: None)
    run = run_of(*(study(problem, family=family) for family, problem in ENTRIES))
    folder = emit(run, tmp_path / "kernels", name=NAME).folder
    lines: list[dict[str, Any]] = []
    compiled = []
    with imported(folder, NAME) as package, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the entries were tuned for another device
        evidence = json.loads((folder / "src" / NAME / EVIDENCE).read_text())
        subject = Subject(package=package, evidence=evidence, device="cpu", seed=3)
        for function, checks in CHECKS.items():
            entries = subject.entries(function)
            if isinstance(checks, OperatorChecks):
                assert entries, f"no entry of {function}"
                importlib.import_module(f"{NAME}.{checks.module}")
                for tuned in entries:
                    checks._check_compiled(subject, tuned, lines.append)
            elif isinstance(checks, GemmFunctionChecks):
                importlib.import_module(f"{NAME}._gemm")
                for product in checks._entries(subject):
                    gemm_torch.check_compiled(product, lines.append)
            else:
                continue  # quantize is not compiled
            compiled += entries
    assert len(compiled) == len(ENTRIES)
    found = {
        line["check"]: (line["status"], line["detail"])
        for line in lines
        if line["check"].endswith("torch.compile fullgraph")
    }
    assert found == {
        f"{tuned.kernel} {tuned.problem}: torch.compile fullgraph": ("passed", "")
        for tuned in compiled
    }
