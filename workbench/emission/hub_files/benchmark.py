"""Workloads for ``kernels benchmark``: every tuned shape, one class a function.

The runner compares ``out`` with the answer of ``verify_...``; operands are chosen so that sums are
exact, and there is one right answer.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from kernels.benchmark import Benchmark

CONFIGS = Path(__file__).resolve().parent.parent / "build" / "torch-cuda" / "configs"


class _Operands:
    """What the classes share; not a benchmark itself, or the runner would look for workloads."""

    kernel: Any
    device: Any
    out: Any

    def _dtype(self, name: str) -> torch.dtype:
        module = importlib.import_module(f"{self.kernel.__name__}._torch_device")
        dtype: torch.dtype = module.DTYPES[name]
        return dtype

    def _grid(self, block: Any, rows: int, cols: int) -> "tuple[int, int]":
        return (-(-rows // block[0]) if block[0] else 1, -(-cols // block[1]) if block[1] else 1)


class GemmBenchmark(_Operands, Benchmark):
    """Products under their recipes; operands are quantised already."""

    seed = 42

    def _setup(self, about: Any, m: int, n: int, k: int) -> None:
        layout = about["layout"]
        recipe, out = about["formats"]
        codes: dict[str, torch.Tensor] = {}
        scales: dict[str, Any] = {}
        for name, rows in (("a", m), ("b", n)):
            drawn = torch.randint(-1, 2, (rows, k), device=self.device)
            codes[name] = drawn.to(self._dtype(layout[f"{name}_element"]))
            block = layout[f"{name}_block"]
            scales[name] = None
            if block is not None:
                scales[name] = torch.ones(self._grid(block, rows, k), device=self.device)
        self.operands = (codes["a"], codes["b"], scales["a"], scales["b"])
        self.keywords = {"recipe": recipe, "out_dtype": self._dtype(out)}
        self.out = torch.empty(m, n, dtype=self._dtype(out), device=self.device)

    def _run(self) -> None:
        self.kernel.gemm(*self.operands, out=self.out, **self.keywords)

    def _answer(self) -> torch.Tensor:
        a, b = (codes.float() for codes in self.operands[:2])
        answer: torch.Tensor = (a @ b.T).to(self.out.dtype)
        return answer


class QuantizeBenchmark(_Operands, Benchmark):
    """Quantisation of operands whose codes are known."""

    seed = 42

    def _setup(self, about: Any, rows: int, cols: int) -> None:
        self.target, source = about["formats"]
        self.block = about["layout"]["block"]
        signs = torch.randint(0, 2, (rows, cols), device=self.device) * 2 - 1
        self.x = signs.to(self._dtype(source))
        codes = torch.empty(rows, cols, dtype=self._dtype(about["layout"]["element"]))
        self.codes = codes.to(self.device)
        # Scales of single rows have their rows contiguous.
        grid = self._grid(self.block, rows, cols)
        self.scales = torch.empty(grid[::-1], device=self.device).T
        if self.block[0] != 1 or self.block[1] == 0:
            self.scales = torch.empty(grid, device=self.device)

    def _run(self) -> None:
        self.kernel.quantize(self.x, self.target, out=(self.codes, self.scales))
        self.out = self.codes

    def _answer(self) -> torch.Tensor:
        # Every element has the largest magnitude of its block.
        most = 127.0 if self.codes.dtype == torch.int8 else torch.finfo(self.codes.dtype).max
        self.out = self.codes.float()
        return self.x.float() * most


CLASSES = {"triton_gemm": GemmBenchmark, "triton_quantize": QuantizeBenchmark}


def _add(owner: Any, name: str, about: Any, shape: "tuple[int, ...]") -> None:
    """The three methods of a workload."""

    def setup(self: Any) -> None:
        self._setup(about, *shape)

    def benchmark(self: Any) -> None:
        self._run()

    def verify(self: Any) -> torch.Tensor:
        answer: torch.Tensor = self._answer()
        return answer

    for kind, method in (("setup", setup), ("benchmark", benchmark), ("verify", verify)):
        setattr(owner, f"{kind}_{name}", method)


def _add_all() -> None:
    for path in sorted(CONFIGS.glob("*/about.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        owner = CLASSES.get(about["kernel"])
        if owner is None:
            continue
        about["layout"] = next(g["layout"] for g in about["gpus"] if g["gpu"] is not None)
        for file in sorted(path.parent.glob("*=*,device_name=*.json")):
            fixed = file.name.partition(",device_name=")[0]
            extents = [int(part.partition("=")[2]) for part in fixed.split(",")]
            for m in json.loads(file.read_text(encoding="utf-8")):
                name = "_".join((*about["formats"], m, *map(str, extents)))
                _add(owner, re.sub(r"\W", "_", name), about, (int(m), *extents))


def _drop_idle() -> None:
    """A class without workloads is an error to the runner."""
    for owner in CLASSES.values():
        if not any(name.startswith("benchmark_") for name in dir(owner)):
            del globals()[owner.__name__]


_add_all()
_drop_idle()
