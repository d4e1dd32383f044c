"""All checks of an installed package, in the checking process, once its independence is shown."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from workbench.verification.gemm_checks import check_gemm, check_untuned, gemm_entries
from workbench.verification.quantize_checks import check_quantize, quantize_entries
from workbench.verification.recorder import Recorder, Report

__all__ = ["run_checks"]


def run_checks(package: ModuleType, job: Mapping[str, Any], device: str, report: Report) -> None:
    """Check answers, and on a GPU speed, of every tuned entry.

    Args:
        package: the emitted package, imported.
        job: what ``verify`` wrote for this process.
        device: "cuda" or "cpu".
        report: takes one JSON-ready mapping a result.
    """
    from tuning.environment import read_environment
    from workbench.verification.torch_checks import check_compiled, check_registration

    report({"environment": read_environment(device).to_dict()})
    evidence, seed = job["evidence"], job["seed"]
    products = list(gemm_entries(package, evidence, device, seed))
    seen: set[tuple[str, str]] = set()
    for module in ("_gemm", "_quantize"):
        if module.removeprefix("_") in package.__all__:
            importlib.import_module(f"{package.__name__}.{module}")
    for product in products:
        check_gemm(product, report)
        formats = (product.problem.recipe.name, product.problem.out)
        if formats not in seen:
            seen.add(formats)
            check_untuned(product, report)
            check_registration(product, report)
            if device == "cuda":
                check_compiled(product, report)
    quantisations = list(quantize_entries(package, evidence, device, seed))
    for quantisation in quantisations:
        if quantisation.kernel == "cuda_quantize" and device == "cuda":
            importlib.import_module(f"{package.__name__}.quantize_cuda")
        check_quantize(quantisation, report)
    if device != "cuda":
        return
    from workbench.verification.rivals import time_products, time_quantize

    with Recorder(report, "timing of products") as check:
        time_products(products, report)
        check.note(f"{len(products)} entries beside their rivals, in this run")
    with Recorder(report, "timing of quantisations") as check:
        timed = [q for q in quantisations if q.kernel == "triton_quantize"]
        for quantisation in timed:
            time_quantize(quantisation, report)
        check.note(f"{len(timed)} Triton entries beside a copy of their input")
