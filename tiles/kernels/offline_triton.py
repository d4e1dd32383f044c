"""Compiles Triton kernels for an NVIDIA GPU that need not be there.

What is compiled is what a launch on that GPU would compile, byte for byte in Triton's disk cache:
the family's own code makes the arguments, from tensors on torch's meta device, which have shapes
and strides but no memory, and Triton is told that the GPU is there.  Not for a process that also
launches.
"""

import re
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.cubin import mma_kind, resources, threads_of

__all__ = ["META", "facts_of"]

META = "meta"  #: torch's device of tensors without memory

#: A buffer of a pipeline: copies x extents.  Barriers have one extent, an epilogue no copies.
_BUFFERS = re.compile(r"ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x")


class _AbsentGpu:
    """What Triton asks its driver for before it compiles."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target


@contextmanager
def _compilations(capability: int) -> Any:
    """A list of what Triton compiles, or finds in its cache, within the context."""
    from triton import knobs
    from triton.runtime.driver import driver

    found: list[tuple[Any, Any, dict[str, str]]] = []

    def note(*, src: Any, metadata: Any, metadata_group: dict[str, str], **rest: Any) -> None:
        found.append((src, metadata, metadata_group))

    before, listener = driver._active, knobs.compilation.listener
    driver.set_active(_AbsentGpu(capability))
    knobs.compilation.listener = note
    try:
        yield found
    finally:
        driver._active = before
        knobs.compilation.listener = listener
        for src, *_ in found:
            src.fn.device_caches.clear()  # they hold the absent GPU, and would answer unheard


def facts_of(compile_all: Callable[[], object], limits: Limits) -> CompileFacts | None:
    """Facts of the kernels that a callable compiles through Triton.

    Args:
        compile_all: warms kernels up on meta tensors, as a family's ``precompile`` does.
        limits: names the GPU; NVIDIA only.

    Returns:
        None where Triton interprets, for another vendor's GPU, and without ``cuobjdump``.

    Raises:
        whatever Triton's compiler raises.
    """
    if limits.vendor != "nvidia":
        return None
    import triton

    with _compilations(limits.capability) as found:
        compile_all()
    compiler, target = f"triton {triton.__version__}", f"sm_{limits.capability}"
    facts = []
    for _, metadata, group in found:
        files = {Path(name).suffix: Path(path) for name, path in group.items()}
        usage = resources(files[".cubin"].read_bytes())
        if usage is None:
            return None
        ptx = files[".ptx"].read_text()
        depths = map(int, _BUFFERS.findall(files[".ttgir"].read_text()))
        facts.append(
            CompileFacts(
                compiler=compiler,
                target=target,
                threads=threads_of(ptx) or 32 * metadata["num_warps"],
                smem_bytes=metadata["shared"],
                registers=usage.registers,
                stack_bytes=usage.stack_bytes,
                pipeline_depth=max(depths, default=0),
                mma=mma_kind(ptx),
            )
        )
    return CompileFacts.largest(facts) if facts else None
