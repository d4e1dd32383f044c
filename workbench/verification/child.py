"""The checking process.  Run as a script by the throw-away environment's interpreter.

First half: standard library and the package under test; imports of the workbench are refused, so
the package works without it.  Second half: the workbench's own references and timers judge it.
"""

import importlib
import importlib.util
import json
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FORBIDDEN = frozenset({"workbench", "tuning", "sim", "tiles"})
NO_DEVICE = 3

Report = Callable[[dict[str, Any]], None]


class Refusal(MetaPathFinder):
    """Refuses imports by top-level name, and remembers them: the importer may catch the error."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.attempts: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self.names:
            self.attempts.append(fullname)
            raise ModuleNotFoundError(f"{fullname} is not there for an emitted package")
        return None


def _modules(package: ModuleType) -> list[str]:
    return [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


def _import_lightly(name: str, report: Report) -> ModuleType:
    """Import the package, and its CuPy part, and see that torch stayed out."""
    package = importlib.import_module(name)
    loaded = sorted({"torch", "cupy"} & set(sys.modules))
    report(
        {
            "check": "light import",
            "status": "failed" if loaded else "passed",
            "detail": f"importing {name} loads {', '.join(loaded) or 'neither torch nor cupy'}",
        }
    )
    functions = sorted(
        module
        for module in _modules(package)
        if module.endswith("_cuda") and module.count(".") == 1
    )
    if functions:
        try:
            importlib.import_module("cupy")
        except ImportError:
            status, detail = "skipped", "cupy is not installed"
        else:
            for function in functions:
                importlib.import_module(function)
            status = "failed" if "torch" in sys.modules else "passed"
            imports = "imports torch" if status == "failed" else "imports no torch"
            detail = f"{' or '.join(functions)} {imports}"
        report({"check": "CuPy without torch", "status": status, "detail": detail})
    return package


def _choose_device(wanted: str) -> str:
    """Decide before triton is imported: it reads TRITON_INTERPRET when it decorates a kernel."""
    import torch

    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            sys.exit(NO_DEVICE)
        os.environ["TRITON_INTERPRET"] = "1"
        return "cpu"
    return "cuda"


def _beside(name: str, path: Path) -> ModuleType:
    """A module or folder of ours, without the workbench around it."""
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _interpreter(device: str) -> AbstractContextManager[None]:
    """Where kernels are interpreted, without what the interpreter does in vain."""
    if device != "cpu":
        return nullcontext()
    path = Path(__file__).parents[2] / "tiles" / "kernels" / "quick_interpreter.py"
    quick: AbstractContextManager[None] = _beside(
        "verification_interpreter", path
    ).quick_interpreter()
    return quick


def _independence(package: ModuleType, device: str, refusal: Refusal, report: Report) -> None:
    here = Path(__file__).parent
    recorder = _beside("verification_recorder", here / "recorder.py").Recorder
    with recorder(report, "runs without the workbench") as check:
        for module in _modules(package):
            if device == "cuda" or "cuda" not in module:
                importlib.import_module(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # untuned extents
            smoke = _beside("verification_smoke", here / "smoke" / "__init__.py")
            calls = smoke.smoke_all(package, device)
        check.note(f"{calls} calls with imports of {', '.join(sorted(FORBIDDEN))} refused")
    with recorder(report, "independence") as check:
        seen = sorted(FORBIDDEN & set(sys.modules) | set(refusal.attempts))
        check.expect(not seen, f"the package imports {', '.join(seen)}")
        check.note("standard library, torch, triton, numpy, cupy and itself")


def main(job_file: str) -> None:
    """Check the package that the job names; results are lines of JSON."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    with Path(job["results"]).open("a", encoding="utf-8") as results:

        def report(line: dict[str, Any]) -> None:
            print(json.dumps(line), file=results, flush=True)

        refusal = Refusal(FORBIDDEN)
        sys.meta_path.insert(0, refusal)
        light = _import_lightly(job["package"], report) if job["light"] else None
        device = _choose_device(job["device"])
        with _interpreter(device):
            package = light or importlib.import_module(job["package"])
            report({"device": device})
            _independence(package, device, refusal, report)
            sys.meta_path.remove(refusal)
            sys.path += [folder for folder in job["workbench"] if folder not in sys.path]
            checks = importlib.import_module("workbench.verification.checks")
            checks.run_checks(package, job, device, report)


if __name__ == "__main__":
    main(sys.argv[1])
