"""The tuned configurations of a run as files: one a kernel, choice of formats, extents and GPU."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tiles.formats import IntElement, TensorFormat
from tiles.kernels import Backend, Kernel, Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.problems import Gemm, Problem, Quantize
from workbench.emission.naming import check_file_part

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import StudyRecord, TrialRecord

__all__ = ["API_MODULES", "TunedEntry", "config_files", "default_problems"]

SCHEMA = "tile-workbench/configs/1"

#: Kernel families that can be emitted, and the module of the package that calls each.
API_MODULES = {
    "triton_gemm": "_gemm.py",
    "triton_quantize": "_quantize.py",
    "cuda_quantize": "quantize_cuda.py",
}

#: Free extents at which the conservative default is asked for.
DEFAULT_M = (16, 64, 256, 1024, 4096)
#: Fixed extents of that question: odd, so that no answer relies on alignment (TMA, vector loads).
DEFAULT_EXTENT = 4095
#: What any NVIDIA GPU of capability 8.0 and up has: no descriptors, 99 KiB of shared memory a CTA
#: less a margin, no 8-bit floats (decoded at run time where the tensor cores do not take them).
ANY_GPU = Limits(
    gpu="any GPU",
    vendor="nvidia",
    capability=80,
    smem_bytes_per_cta=96 * 1024,
    registers_per_sm=65536,
    threads_per_sm=1024,
    warp_threads=32,
    native_elements=frozenset({"fp16", "bf16", "int8"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedEntry:
    """The winner of one study."""

    study: "StudyRecord"
    best: "TrialRecord"
    gpu: "Gpu"

    @property
    def kernel(self) -> Kernel:
        """The kernel family."""
        return kernel(self.study.kernel)

    @property
    def problem(self) -> Problem:
        """What was tuned."""
        return self.study.problem

    @property
    def path(self) -> NumericPath:
        """Whether the GPU runs the formats natively."""
        return self.kernel.path(self.problem, self.gpu.limits)

    @property
    def m(self) -> int:
        """The free extent: M of a product, rows of a quantisation."""
        return self.problem.shape[0]

    @property
    def extents(self) -> tuple[int, ...]:
        """The fixed extents: (N, K), or (columns,)."""
        return self.problem.shape[1:]

    @property
    def formats(self) -> tuple[str, str]:
        """(recipe, output) of a product, (target, source) of a quantisation."""
        return _formats(self.problem)

    @property
    def family(self) -> tuple[str, tuple[str, str], str]:
        """What shares a default: kernel, formats, GPU."""
        return (self.study.kernel, self.formats, self.study.gpu)

    @property
    def file_name(self) -> str:
        """Name of the file under ``configs/`` that holds the entry."""
        return _file_name(self, self.extents)

    @property
    def folder(self) -> str:
        """Folder under ``kernels/`` that holds the template."""
        return "cuda" if self.kernel.backend is Backend.CUPY else "triton"


def _formats(problem: Problem) -> tuple[str, str]:
    if isinstance(problem, Gemm):
        return (problem.recipe.name, problem.out)
    return (str(problem.target), problem.source)


def _file_name(entry: TunedEntry, extents: tuple[int, ...] | None, *, any_gpu: bool = False) -> str:
    parts = [
        check_file_part(entry.study.kernel, "kernel"),
        *(check_file_part(name, "format") for name in entry.formats),
        "default" if extents is None else "x".join(map(str, extents)),
    ]
    if not any_gpu:
        parts.append(check_file_part(entry.study.gpu, "gpu"))
    return "-".join(parts) + ".json"


def _block(fmt: TensorFormat) -> list[int] | None:
    """(rows, columns) under one scale, 0 for the whole extent; ``None`` without scales."""
    return None if fmt.scaling is None else [fmt.scaling.rows or 0, fmt.scaling.cols or 0]


def _layout(entry: TunedEntry, *, any_gpu: bool) -> dict[str, Any]:
    problem = entry.problem
    if isinstance(problem, Quantize):
        return {"element": problem.target.element.name, "block": _block(problem.target)}
    recipe = problem.recipe
    exact = isinstance(recipe.activation.element, IntElement)
    return {
        "a_element": recipe.activation.element.name,
        "a_block": _block(recipe.activation),
        "b_element": recipe.weight.element.name,
        "b_block": _block(recipe.weight),
        "decode": None if any_gpu else entry.path is NumericPath.EMULATED,
        # Beyond it the int32 accumulator of a product without promotion could overflow.
        "max_k": MAX_INT32_K if exact and not recipe.blockwise else None,
    }


def default_problems(problem: Problem) -> dict[int, Problem]:
    """By free extent: the problems whose default configurations stand in for untuned extents."""
    if isinstance(problem, Gemm):
        return {m: replace(problem, m=m, n=DEFAULT_EXTENT, k=DEFAULT_EXTENT) for m in DEFAULT_M}
    return {m: replace(problem, rows=m, cols=DEFAULT_EXTENT) for m in DEFAULT_M}


def _devices(entries: Iterable[TunedEntry]) -> list[str]:
    """Names of the GPU as drivers report them: patterns of its file, and where it was measured."""
    names: set[str] = set()
    for entry in entries:
        names.update(entry.gpu.device_names)
        if not entry.study.simulated and entry.study.environment is not None:
            names.add(entry.study.environment.gpu)
    return sorted(names)


def _text(
    entries: Sequence[TunedEntry],
    extents: list[int] | None,
    configs: dict[int, Any],
    *,
    any_gpu: bool = False,
) -> str:
    first = entries[0]
    data = {
        "schema": SCHEMA,
        "kernel": first.study.kernel,
        "template": f"{first.folder}.{first.kernel.template.stem}",
        "gpu": None if any_gpu else first.study.gpu,
        "devices": [] if any_gpu else _devices(entries),
        "formats": list(first.formats),
        "extents": extents,
        "layout": _layout(first, any_gpu=any_gpu),
        "entries": [{"m": m, "config": configs[m]} for m in sorted(configs)],
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def config_files(entries: Sequence[TunedEntry]) -> dict[str, str]:
    """Every file of ``configs/`` by name.

    Raises:
        ValueError: a kernel that cannot be emitted, or two studies of one problem on one GPU.
    """
    files: dict[str, str] = {}
    families: dict[tuple[str, tuple[str, str], str], list[TunedEntry]] = {}
    shapes: dict[str, list[TunedEntry]] = {}
    for entry in entries:
        if entry.study.kernel not in API_MODULES:
            raise ValueError(
                f"kernel {entry.study.kernel!r} cannot be emitted, only {', '.join(API_MODULES)}"
            )
        families.setdefault(entry.family, []).append(entry)
        shapes.setdefault(entry.file_name, []).append(entry)
    for name, same in shapes.items():
        configs = {entry.m: entry.best.config.to_dict() for entry in same}
        if len(configs) != len(same):
            raise ValueError(
                f"two studies tuned {same[0].problem} on {same[0].study.gpu}: keep one"
            )
        files[name] = _text(same, list(same[0].extents), configs)
    for same in families.values():
        first = same[0]
        files[_file_name(first, None)] = _text(same, None, _defaults(first, first.gpu.limits))
        anywhere = _text(same, None, _defaults(first, ANY_GPU), any_gpu=True)
        files[_file_name(first, None, any_gpu=True)] = anywhere
    return files


def _defaults(entry: TunedEntry, limits: Limits) -> dict[int, Any]:
    """Default configurations of the entry's family, by free extent."""
    return {
        m: entry.kernel.default(problem, limits).to_dict()
        for m, problem in default_problems(entry.problem).items()
    }
