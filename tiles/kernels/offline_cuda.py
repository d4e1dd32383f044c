"""Compiles CUDA C++ with NVRTC for an NVIDIA GPU that need not be there."""

from collections.abc import Sequence
from pathlib import Path

from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.cubin import cuobjdump, mma_kind, resources, threads_of
from tiles.kernels.cuda.modules import CUPY_OPTIONS, binary_name, keep_binary, read_source
from tiles.kernels.nvrtc import compile_code, compiler_name

__all__ = ["available", "facts_of"]

#: From capability 90 on, ``cuobjdump`` counts what the system keeps of every CTA; limits do not.
SYSTEM_SMEM_BYTES = 1024


def available() -> bool:
    """Whether :func:`facts_of` finds all it needs for an NVIDIA GPU."""
    return compiler_name() is not None and cuobjdump() is not None


def facts_of(
    source: Path, options: Sequence[str], threads: int, limits: Limits, *, target: str = ""
) -> CompileFacts | None:
    """Facts of the kernels of one CUDA C++ file; the binary is kept for who launches it.

    Args:
        source: the file.
        options: the compiler's, without the architecture.
        threads: of a CTA, where the source does not say.
        limits: names the GPU; NVIDIA only.
        target: architecture, where it is not the GPU's plain one, e.g. "sm_90a".

    Returns:
        None for another vendor's GPU, and without NVRTC or ``cuobjdump``.

    Raises:
        OfflineCompileError: NVRTC refuses the source; its log is the message.
    """
    compiler = compiler_name()
    if limits.vendor != "nvidia" or compiler is None:
        return None
    target = target or f"sm_{limits.capability}"
    code = read_source(source)
    made = compile_code(
        code, source.name, (*options, *CUPY_OPTIONS, f"--gpu-architecture={target}")
    )
    keep_binary(binary_name(code, options, target, compiler), made.binary)
    usage = resources(made.binary)
    if usage is None:
        return None
    system = SYSTEM_SMEM_BYTES if limits.capability >= 90 else 0
    return CompileFacts(
        compiler=compiler,
        target=target,
        threads=threads_of(made.ptx) or threads,
        smem_bytes=max(0, usage.static_smem_bytes - system),
        registers=usage.registers,
        stack_bytes=usage.stack_bytes,
        pipeline_depth=0,
        mma=mma_kind(made.ptx),
    )
