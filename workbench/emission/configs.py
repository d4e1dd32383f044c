"""The tuned configurations of a run as files: one a kernel, choice of formats, extents and GPU."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tiles.formats import IntElement, TensorFormat
from tiles.kernels import Kernel, Limits, NumericPath, kernel
from tiles.kernels.gemm import MAX_INT32_K
from tiles.kernels.hopper_block_gemm import HopperBlockGemm, block_scales
from tiles.kernels.hopper_gemm import HopperGemm, scale_mode
from tiles.kernels.hopper_skinny import HopperSkinnyGemm
from tiles.problems import Gemm, Problem, Quantize
from workbench.emission.winners import (
    STAND_INS,
    TunedEntry,
    config_file_name,
    families_of,
    template_folder,
)

__all__ = ["config_files", "default_problems"]

SCHEMA = "tile-workbench/configs/1"

#: Free extents at which the conservative default is asked for.
DEFAULT_M = (16, 64, 256, 1024, 4096)
#: Fixed extents of that question: odd, so that no answer relies on alignment (TMA, vector loads).
DEFAULT_EXTENT = 4095
#: For a family that has a stand-in for everything else.
ALIGNED_EXTENT = 4096
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
#: The same for families that need Hopper's instructions: any GPU of capability 9.0.
ANY_HOPPER = replace(
    ANY_GPU, gpu="any GPU of capability 9.0", capability=90, smem_bytes_per_cta=227 * 1024
)


def _block(fmt: TensorFormat) -> list[int] | None:
    """(rows, columns) under one scale, 0 for the whole extent; ``None`` without scales."""
    return None if fmt.scaling is None else [fmt.scaling.rows or 0, fmt.scaling.cols or 0]


def _layout(family: Kernel, entry: TunedEntry, *, any_gpu: bool) -> dict[str, Any]:
    problem = entry.problem
    if isinstance(problem, Quantize):
        return {"element": problem.target.element.name, "block": _block(problem.target)}
    assert isinstance(problem, Gemm)  # API_MODULES names the families that are emitted
    recipe = problem.recipe
    exact = isinstance(recipe.activation.element, IntElement)
    layout: dict[str, Any] = {
        "a_element": recipe.activation.element.name,
        "a_block": _block(recipe.activation),
        "b_element": recipe.weight.element.name,
        "b_block": _block(recipe.weight),
        # Beyond it the int32 accumulator of a product without promotion could overflow.
        "max_k": MAX_INT32_K if exact and not recipe.blockwise else None,
    }
    if isinstance(family, HopperGemm | HopperSkinnyGemm):
        return layout | {"scales": scale_mode(recipe.activation, recipe.weight)}
    if isinstance(family, HopperBlockGemm):
        return layout | {"scales": block_scales(recipe.activation, recipe.weight)}
    emulated = family.path(problem, entry.gpu.limits) is NumericPath.EMULATED
    return layout | {"decode": None if any_gpu else emulated}


def default_problems(problem: Problem, extent: int = DEFAULT_EXTENT) -> dict[int, Problem]:
    """By free extent: the problems whose default configurations stand in for untuned extents."""
    return {m: problem.resized(m, *(extent for _ in problem.shape[1:])) for m in DEFAULT_M}


def _devices(entries: Iterable[TunedEntry]) -> list[str]:
    """Names of the GPU as drivers report them: patterns of its file, and where it was measured."""
    names: set[str] = set()
    for entry in entries:
        names.update(entry.gpu.device_names)
        if not entry.study.simulated and entry.study.environment is not None:
            names.add(entry.study.environment.gpu)
    return sorted(names)


def _text(
    family: Kernel,
    entries: Sequence[TunedEntry],
    extents: list[int] | None,
    configs: dict[int, Any],
    *,
    any_gpu: bool = False,
) -> str:
    first = entries[0]
    data = {
        "schema": SCHEMA,
        "kernel": family.name,
        "template": f"{template_folder(family)}.{family.template.stem}",
        "gpu": None if any_gpu else first.study.gpu,
        "devices": [] if any_gpu else _devices(entries),
        "formats": list(first.formats),
        "extents": extents,
        "layout": _layout(family, first, any_gpu=any_gpu),
        "entries": [{"m": m, "config": configs[m]} for m in sorted(configs)],
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def config_files(entries: Sequence[TunedEntry]) -> dict[str, str]:
    """Every file of ``configs/`` by name, of entries that :func:`fastest` has kept."""
    files: dict[str, str] = {}
    shared: dict[tuple[str, tuple[str, ...], str], list[TunedEntry]] = {}
    shapes: dict[str, list[TunedEntry]] = {}
    for entry in entries:
        for name in families_of(entry):
            shared.setdefault((name, entry.formats, entry.study.gpu), []).append(entry)
        shapes.setdefault(entry.file_name, []).append(entry)
    for name, same in shapes.items():
        configs = {entry.m: entry.best.config.to_dict() for entry in same}
        files[name] = _text(same[0].kernel, same, list(same[0].extents), configs)
    for (family_name, *_), same in shared.items():
        family, first = kernel(family_name), same[0]
        here = _defaults(family, first.problem, first.gpu.limits)
        files[config_file_name(family, first, None)] = _text(family, same, None, here)
        limits = ANY_HOPPER if family.name in STAND_INS else ANY_GPU
        files[config_file_name(family, first, None, any_gpu=True)] = _text(
            family, same, None, _defaults(family, first.problem, limits), any_gpu=True
        )
    return files


def _defaults(family: Kernel, problem: Problem, limits: Limits) -> dict[int, Any]:
    """Default configurations of a family, by free extent."""
    extent = ALIGNED_EXTENT if family.name in STAND_INS else DEFAULT_EXTENT
    return {
        m: family.default(one, limits).to_dict()
        for m, one in default_problems(problem, extent).items()
    }
