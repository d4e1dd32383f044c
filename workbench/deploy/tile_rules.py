"""Faults of entries: tiles that do not compile, compute something else, or do not fit the GPU."""

from collections.abc import Iterator
from dataclasses import replace

from sim import Gpu
from workbench.deploy.families import ConfigFamily
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.resources import gpu_of, registers, smem_estimate
from workbench.deploy.tuned import Entry, TunedName

__all__ = ["scale_obstacle", "tile_findings"]

_MAX_THREADS = 1024
#: Triton's smallest product.
_MIN_DOT = 16


def tile_findings(file: ReadFile, given: Gpu | None) -> Iterator[Finding]:
    """Faults of a file's good entries.

    Args:
        given: a GPU that comes before those of our files.
    """
    gpu = gpu_of(file.family.device(file.parsed.name.device), given)
    for m, entry in file.body.rows:
        for rule, message in _entry_faults(file, entry, gpu):
            yield Finding(rule=rule, path=file.path, message=f"M {m}: {message}")


def _entry_faults(file: ReadFile, entry: Entry, gpu: Gpu | None) -> Iterator[tuple[str, str]]:
    tile = {
        "BLOCK_SIZE_M": entry.block_m,
        "BLOCK_SIZE_N": entry.block_n,
        "BLOCK_SIZE_K": entry.block_k,
    }
    legal = True
    for key, value in tile.items():
        if value & (value - 1):
            legal = False
            yield "tile.power", f"{key} {value}: Triton's tiles are powers of two, choose one"
        elif value < _MIN_DOT:
            legal = False
            yield "tile.dot", f"{key} {value}: a product has at least {_MIN_DOT}, enlarge it"
    warps = entry.num_warps
    width = 32 if gpu is None else gpu.warp_threads
    if warps & (warps - 1) or warps * width > _MAX_THREADS:
        legal = False
        yield (
            "tile.warps",
            f"num_warps {warps}: a power of two up to {_MAX_THREADS // width}, choose one",
        )
    if not legal:
        return
    if (found := scale_obstacle(file.family, file.parsed.name, entry)) is not None:
        yield found
    if gpu is None:
        return
    shape = file.parsed.name.block_shape
    if shape is not None and file.family.scale_rule.clamped:
        entry = replace(entry, block_k=min(entry.block_k, *shape))
    taken = smem_estimate(file.parsed.name, entry, gpu)
    if taken > gpu.smem_bytes_per_cta:
        yield (
            "gpu.smem",
            f"{entry.block_m}x{entry.block_n}x{entry.block_k} in {entry.num_stages} stages takes "
            f"about {taken} B of shared memory, {gpu.name} has {gpu.smem_bytes_per_cta} B a CTA: "
            "fewer stages or a smaller tile",
        )
    held, most = registers(file.parsed.name, entry, gpu)
    # Fifth-generation tensor cores accumulate in a memory of their own.
    if held > most and "tcgen05" not in gpu.features:
        yield (
            "gpu.registers",
            f"{entry.block_m}x{entry.block_n} on {warps} warps holds {held} accumulators a thread, "
            f"{gpu.name} has registers for {most}: more warps or a smaller tile",
        )


def scale_obstacle(family: ConfigFamily, name: TunedName, entry: Entry) -> tuple[str, str] | None:
    """(rule, message) of a tile that does not go with the blocks under one weight scale."""
    if name.block_shape is None:
        return None
    bk, k = name.block_shape[1], entry.block_k
    clamped = family.scale_rule.clamped
    if bk % k and not (clamped and k % bk == 0):
        more = f" or multiple of {bk}" * clamped
        return (
            "tile.scale-k",
            f"BLOCK_SIZE_K {k} with blocks of {bk} along K: the kernel reads one scale a K-step, "
            f"choose a divisor{more}",
        )
    if family.scale_rule.whole_blocks and k % bk:
        return (
            "tile.whole-blocks",
            f"BLOCK_SIZE_K {k} with blocks of {bk} along K: {family.engine}'s tuner keeps whole "
            "blocks in a K-step, choose a multiple",
        )
    return None
