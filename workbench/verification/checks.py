"""All checks of an installed package, in the checking process, once its independence is shown."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from workbench.verification.gemm_checks import check_defaults, check_gemm, check_untuned
from workbench.verification.gemm_entry import HOPPER, GemmEntry, gemm_entries
from workbench.verification.quantize_checks import (
    QuantizeEntry,
    check_quantize,
    check_quantize_defaults,
    quantize_entries,
)
from workbench.verification.recorder import Recorder, Report

__all__ = ["environment_of", "run_checks"]


class _Seen:
    """Remembers what was checked where every entry is cut down to the same small shapes."""

    def __init__(self, device: str) -> None:
        self._first: dict[tuple[object, ...], str] | None = {} if device == "cpu" else None

    def before(self, entry: GemmEntry | QuantizeEntry, formats: tuple[str, str]) -> str:
        """The earlier entry with the same kernel, formats and configuration, or ''."""
        if self._first is None:
            return ""
        key = (type(entry), formats, *sorted(entry.config.items()))
        name = str(entry.problem)
        first = self._first.setdefault(key, name)
        return "" if first == name else first


def environment_of(device: str) -> dict[str, Any]:
    """Device, driver and versions of this process, the workbench's own also from a checkout.

    The clock is that of each timing.
    """
    from tuning.environment import read_environment
    from workbench import __version__

    environment = read_environment(device).to_dict()
    if environment["versions"].get("tile-workbench") in (None, "absent"):
        environment["versions"]["tile-workbench"] = __version__
    return environment


def run_checks(package: ModuleType, job: Mapping[str, Any], device: str, report: Report) -> None:
    """Check answers, and on a GPU speed, of every tuned entry.

    Args:
        package: the emitted package, imported.
        job: what ``verify`` wrote for this process.
        device: "cuda" or "cpu".
        report: takes one JSON-ready mapping a result.
    """
    from workbench.verification.torch_checks import check_compiled, check_registration

    report({"environment": environment_of(device)})
    evidence, seed = job["evidence"], job["seed"]
    products = list(gemm_entries(package, evidence, device, seed))
    untuned: set[tuple[str, str]] = set()
    compiled: set[tuple[str, str, str]] = set()
    defaults: set[tuple[str, str, str]] = set()
    seen = _Seen(device)
    for module in ("_gemm", "_quantize"):
        if module.removeprefix("_") in package.__all__:
            importlib.import_module(f"{package.__name__}.{module}")
    if any(product.kernel in HOPPER for product in products):
        importlib.import_module(f"{package.__name__}._hopper_gemm")
        if device == "cuda":
            importlib.import_module(f"{package.__name__}.gemm_cuda")
    for product in products:
        formats = (product.problem.recipe.name, product.problem.out)
        check_gemm(product, report, seen=seen.before(product, formats))
        if formats not in untuned:
            untuned.add(formats)
            check_untuned(product, report)
            check_defaults(product, report)
            check_registration(product, report)
        if device == "cuda" and (product.kernel, *formats) not in compiled:
            compiled.add((product.kernel, *formats))
            check_compiled(product, report)
    quantisations = list(quantize_entries(package, evidence, device, seed))
    for quantisation in quantisations:
        if quantisation.kernel == "cuda_quantize" and device == "cuda":
            importlib.import_module(f"{package.__name__}.quantize_cuda")
        formats = (str(quantisation.problem.target), quantisation.problem.source)
        check_quantize(quantisation, report, seen=seen.before(quantisation, formats))
        if (quantisation.kernel, *formats) not in defaults:
            defaults.add((quantisation.kernel, *formats))
            check_quantize_defaults(quantisation, report)
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
