"""What a tile of an engine's kernel takes of a GPU: shared memory and registers, estimated.

The engines' kernels are plain Triton products (loads by pointers, one program a tile), which is
what :mod:`tiles.kernels.gemm_smem` estimates; weight-only ones load 8-bit codes beside 16-bit rows.
"""

import re
from fnmatch import translate
from functools import cache, lru_cache

from sim import Gpu, load_gpu
from sim.gpu_file import gpu_names
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_smem import smem_bytes
from tiles.kernels.table import ConfigTable
from tiles.problems import Gemm
from tiles.recipes import recipe
from workbench.deploy.tuned import Entry, TunedName

__all__ = ["device_of", "gpu_of", "known_devices", "registers", "smem_estimate"]

#: Registers of a thread that are no accumulators: addresses, counters, scales.
_OTHER_REGISTERS = 24


def device_of(gpu: Gpu) -> str:
    """The device name that drivers give for a GPU file, blanks as underscores.

    Raises:
        ValueError: the file names no device without a wildcard.
    """
    plain = [name for name in gpu.device_names if not re.search(r"[*?\[]", name)]
    if not plain:
        raise ValueError(f"{gpu.name}: its file has no plain device name: add one to matches")
    return "_".join(plain[0].replace("/", " ").split())


@cache
def _gpus() -> tuple[tuple[re.Pattern[str], Gpu], ...]:
    return tuple(
        (re.compile(translate(pattern.replace(" ", "_"))), gpu)
        for gpu in map(load_gpu, gpu_names())
        for pattern in gpu.device_names
    )


@cache
def known_devices() -> tuple[str, ...]:
    """Device names of all GPU files, blanks as underscores."""
    names = [name.replace(" ", "_") for _, gpu in _gpus() for name in gpu.device_names]
    return tuple(dict.fromkeys(name for name in names if not re.search(r"[*?\[]", name)))


def gpu_of(device: str, given: Gpu | None = None) -> Gpu | None:
    """The GPU that a name's device part means; ``None``: no file of ours describes it.

    Args:
        device: blanks as underscores.
        given: a GPU that comes before ours.
    """
    if given is not None and any(
        re.fullmatch(translate(name.replace(" ", "_")), device) for name in given.device_names
    ):
        return given
    for pattern, gpu in _gpus():
        if pattern.fullmatch(device):
            return gpu
    # All H200 boards have one Hopper chip; they differ in memory, clocks and power.
    return load_gpu("h200") if "H200" in device.split("_") else None


#: Recipes whose products load what a label's do, by (label, whether scales stand for blocks).
_RECIPES = {
    (None, False): "bf16",
    (None, True): "bf16",
    ("fp8_w8a8", False): "e4m3-row",
    ("fp8_w8a8", True): "deepseek-fp8",
    ("fp8_w8a8_per_token", False): "e4m3-row",
    ("int8_w8a8", False): "int8-row",
    ("int8_w8a8", True): "int8-b1x128",
}
#: Bytes of an element of either operand, for labels without such a recipe.
_OTHER_BYTES = {"float32": (4, 4)}
_WEIGHT_ONLY_BYTES = (2, 1)


@cache
def _problem(label: str | None, blockwise: bool) -> Gemm | None:
    """A product in the formats of a label; ``None``: not one of the scaled product's."""
    chosen = _RECIPES.get((label, blockwise))
    return None if chosen is None else Gemm(m=4096, n=4096, k=4096, recipe=recipe(chosen))


@lru_cache(maxsize=4096)
def _scaled_bytes(problem: Gemm, entry: Entry) -> int:
    """By the legality rules of ``triton_gemm``; a folder has few different entries."""
    config = GemmConfig(
        block_m=entry.block_m,
        block_n=entry.block_n,
        block_k=entry.block_k,
        group_m=entry.group_m or 1,
        num_warps=entry.num_warps,
        num_stages=entry.num_stages,
        tma=False,
        persistent=False,
    )
    return int(smem_bytes(problem, ConfigTable.of([config]))[0])


def smem_estimate(name: TunedName, entry: Entry, gpu: Gpu) -> int:
    """Shared memory of a CTA, bytes; from Hopper on as ``triton_gemm``'s legality rules have it.

    Before Hopper, and on AMD, operands are multiplied from registers, so a stage fewer lies in
    shared memory, and the output is not staged: what engines ship for an L40S, such as four stages
    of 128x128x128 in FP8 within 99 KiB, holds that.
    """
    problem = _problem(name.label, name.blockwise)
    if problem is not None and not gpu.features.isdisjoint(("wgmma", "tcgen05")):
        return _scaled_bytes(problem, entry)
    if problem is None:
        a_bytes, b_bytes = _OTHER_BYTES.get(name.label or "", _WEIGHT_ONLY_BYTES)
    else:
        a_bytes = b_bytes = problem.recipe.activation.element.bits // 8
    row_bytes = entry.block_m * a_bytes + entry.block_n * b_bytes
    return max(entry.num_stages - 1, 1) * row_bytes * entry.block_k


def registers(name: TunedName, entry: Entry, gpu: Gpu) -> tuple[int, int]:
    """Registers a thread that accumulators take, and how many there are for them.

    A product under block scales stands beside the sum that it is added to.
    """
    threads = entry.num_warps * gpu.warp_threads
    sums = entry.block_m * entry.block_n // max(threads, 1)
    most = min(gpu.registers_per_thread, gpu.registers_per_sm // max(threads, 1))
    if name.blockwise:
        # Exactly twice 128 spill a few words only; tuners choose such tiles.
        return (2 * sums, most + 1)
    return (sums, most - _OTHER_REGISTERS)
