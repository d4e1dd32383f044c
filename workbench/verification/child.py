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
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FORBIDDEN = frozenset({"workbench", "tuning", "sim", "tiles"})
NO_DEVICE = 3
#: Families of products in CUDA C++; nothing of the workbench may be imported yet.
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")

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
    functions = sorted({f"{name}.quantize_cuda", f"{name}.gemm_cuda"} & set(_modules(package)))
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


def _codes(torch: Any, rows: int, cols: int, element: str, device: str) -> Any:
    names = {"e4m3fn": "float8_e4m3fn", "bf16": "bfloat16", "fp16": "float16"}
    names |= {"e5m2": "float8_e5m2", "fp32": "float32"}
    return torch.ones(rows, cols, device=device).to(getattr(torch, names.get(element, element)))


def _smoke(package: ModuleType, device: str) -> int:
    """Call every function of the package on small matrices of ones; returns how many calls."""
    import torch

    lookup = importlib.import_module(f"{package.__name__}._lookup")
    rows, cols, calls = 4, 128, 0

    def scales(block: Any, height: int = rows, width: int = cols) -> Any:
        if block is None:
            return None
        grid = [
            -(-height // block[0]) if block[0] else 1,
            -(-width // block[1]) if block[1] else 1,
        ]
        return torch.ones(grid, device=device)

    for (recipe, out), layout in lookup.layouts("triton_gemm").items():
        a = _codes(torch, rows, cols, layout["a_element"], device)
        b = _codes(torch, rows, cols, layout["b_element"], device)
        dtype = _codes(torch, 1, 1, out, "cpu").dtype
        a_scale, b_scale = scales(layout["a_block"]), scales(layout["b_block"])
        package.gemm(a, b, a_scale, b_scale, recipe=recipe, out_dtype=dtype)
        calls += 1
    for file in lookup.FILES:
        if device == "cuda" and file.kernel in HOPPER and file.extents is not None:
            n, k = file.extents
            recipe, out = file.formats
            a = _codes(torch, rows, k, file.layout["a_element"], device)
            b = _codes(torch, n, k, file.layout["b_element"], device)
            dtype = _codes(torch, 1, 1, out, "cpu").dtype
            a_scale = scales(file.layout["a_block"], rows, k)
            b_scale = scales(file.layout["b_block"], n, k)
            package.gemm(a, b, a_scale, b_scale, recipe=recipe, out_dtype=dtype)
            calls += 1
    if device == "cuda" and any(map(lookup.layouts, HOPPER)):
        calls += _smoke_cupy(package, lookup)
    for target, source in lookup.layouts("triton_quantize"):
        package.quantize(_codes(torch, rows, cols, source, device), target)
        calls += 1
    if device == "cuda" and lookup.layouts("cuda_quantize"):
        cupy = importlib.import_module("cupy")
        quantize = importlib.import_module(f"{package.__name__}.quantize_cuda").quantize
        dtypes = {"bf16": "uint16", "fp16": "float16", "fp32": "float32"}
        for target, source in lookup.layouts("cuda_quantize"):
            quantize(cupy.zeros((rows, cols), dtypes[source]), target)
            calls += 1
    return calls


def _smoke_cupy(package: ModuleType, lookup: ModuleType) -> int:
    """Call the product of CuPy arrays on zeros; returns how many calls."""
    cupy = importlib.import_module("cupy")
    gemm = importlib.import_module(f"{package.__name__}.gemm_cuda").gemm
    dtypes = {"bf16": "uint16", "fp16": "float16", "int8": "int8"}
    rows, cols = 8, 256
    layouts = {key: value for name in HOPPER for key, value in lookup.layouts(name).items()}
    for (recipe, out), layout in layouts.items():
        a = cupy.zeros((rows, cols), dtypes.get(layout["a_element"], "uint8"))
        b = cupy.zeros((cols, cols), a.dtype)
        scales = []
        for operand, block in ((a, layout["a_block"]), (b, layout["b_block"])):
            grid = block and [
                -(-extent // under) if under else 1
                for extent, under in zip(operand.shape, block, strict=True)
            ]
            # 1xB scales have their rows contiguous.
            order = "F" if block and block[0] == 1 else "C"
            scales.append(grid and cupy.ones(grid, "float32", order=order))
        gemm(a, b, *scales, recipe=recipe, out_format=out)
    return len(layouts)


def _recorder() -> Any:
    """``recorder.py`` beside this file, without the workbench around it."""
    path = Path(__file__).with_name("recorder.py")
    spec = importlib.util.spec_from_file_location("verification_recorder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Recorder


def _independence(package: ModuleType, device: str, refusal: Refusal, report: Report) -> None:
    with _recorder()(report, "runs without the workbench") as check:
        for module in _modules(package):
            if device == "cuda" or "cuda" not in module:
                importlib.import_module(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # untuned extents
            calls = _smoke(package, device)
        check.note(f"{calls} calls with imports of {', '.join(sorted(FORBIDDEN))} refused")
    with _recorder()(report, "independence") as check:
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
        package = _import_lightly(job["package"], report)
        device = _choose_device(job["device"])
        report({"device": device})
        _independence(package, device, refusal, report)
        sys.meta_path.remove(refusal)
        sys.path += [folder for folder in job["workbench"] if folder not in sys.path]
        checks = importlib.import_module("workbench.verification.checks")
        checks.run_checks(package, job, device, report)


if __name__ == "__main__":
    main(sys.argv[1])
