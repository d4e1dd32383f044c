"""Compiles CUDA C++ with NVRTC for an NVIDIA GPU that need not be there."""

from collections.abc import Sequence
from pathlib import Path

from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts, OfflineCompileError
from tiles.kernels.cubin import cuobjdump, mma_kind, resources, threads_of
from tiles.kernels.cuda.modules import CUPY_OPTIONS, binary_name, keep_binary, read_source

__all__ = ["available", "compiler_name", "facts_of"]

#: From capability 90 on, ``cuobjdump`` counts what the system keeps of every CTA; limits do not.
SYSTEM_SMEM_BYTES = 1024


def compiler_name() -> str | None:
    """NVRTC's name and version; None where ``cuda-bindings`` or the library is missing."""
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):
        return None
    return f"nvrtc {major}.{minor}" if not int(error) else None


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
    from cuda.bindings import nvrtc

    target = target or f"sm_{limits.capability}"
    code = read_source(source)
    error, program = nvrtc.nvrtcCreateProgram(code.encode(), source.name.encode(), 0, [], [])
    if int(error):
        raise OfflineCompileError(f"nvrtc: {error.name}")
    try:
        arguments = [
            option.encode() for option in (*options, *CUPY_OPTIONS, f"--gpu-architecture={target}")
        ]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
        if int(error):
            _, size = nvrtc.nvrtcGetProgramLogSize(program)
            log = b" " * size
            nvrtc.nvrtcGetProgramLog(program, log)
            raise OfflineCompileError(log.decode(errors="replace").strip(" \0\n") or error.name)
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin = b" " * size
        nvrtc.nvrtcGetCUBIN(program, cubin)
        _, size = nvrtc.nvrtcGetPTXSize(program)
        ptx = b" " * size
        nvrtc.nvrtcGetPTX(program, ptx)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    keep_binary(binary_name(code, options, target, compiler), cubin)
    usage = resources(cubin)
    if usage is None:
        return None
    text = ptx.decode(errors="replace")
    system = SYSTEM_SMEM_BYTES if limits.capability >= 90 else 0
    return CompileFacts(
        compiler=compiler,
        target=target,
        threads=threads_of(text) or threads,
        smem_bytes=max(0, usage.static_smem_bytes - system),
        registers=usage.registers,
        stack_bytes=usage.stack_bytes,
        pipeline_depth=0,
        mma=mma_kind(text),
    )
