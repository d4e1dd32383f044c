"""The checks of ``gemm`` and ``gemm_cuda.gemm``."""

import importlib

from tiles.problems import Gemm
from workbench.verification.function_checks import FunctionChecks, Seen, Subject
from workbench.verification.gemm_checks import check_defaults, check_gemm, check_untuned
from workbench.verification.gemm_entry import HOPPER, GemmEntry
from workbench.verification.gemm_torch import check_compiled, check_registration
from workbench.verification.recorder import Recorder, Report

__all__ = ["GemmFunctionChecks"]


class GemmFunctionChecks(FunctionChecks):
    """Scaled products, in Triton and in CUDA C++."""

    def _entries(self, subject: Subject) -> list[GemmEntry]:
        found = []
        for tuned in subject.entries("gemm"):
            assert isinstance(tuned.problem, Gemm)
            entry = GemmEntry(
                problem=tuned.problem,
                config=tuned.config,
                package=subject.package,
                device=subject.device,
                seed=subject.seed,
                kernel=tuned.kernel,
            )
            found.append(entry)
        return found

    def check(self, subject: Subject, report: Report) -> None:
        package, products = subject.package, self._entries(subject)
        untuned: set[tuple[str, str]] = set()
        compiled: set[tuple[str, str, str]] = set()
        seen = Seen(subject.device)
        importlib.import_module(f"{package.__name__}._gemm")
        if any(product.kernel in HOPPER for product in products):
            importlib.import_module(f"{package.__name__}._hopper_gemm")
            if subject.device == "cuda":
                importlib.import_module(f"{package.__name__}.gemm_cuda")
        for product in products:
            formats = (product.problem.recipe.name, product.problem.out)
            name = str(product.problem)
            check_gemm(product, report, seen=seen.before("gemm", product.config, formats, name))
            if formats not in untuned:
                untuned.add(formats)
                check_untuned(product, report)
                check_defaults(product, report)
                check_registration(product, report)
            if subject.device == "cuda" and (product.kernel, *formats) not in compiled:
                compiled.add((product.kernel, *formats))
                check_compiled(product, report)

    def time(self, subject: Subject, report: Report) -> None:
        from workbench.verification.rivals import time_products

        products = self._entries(subject)
        with Recorder(report, "timing of products") as check:
            time_products(products, report)
            check.note(f"{len(products)} entries beside their rivals, in this run")
