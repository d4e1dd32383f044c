"""Compiles CUDA C++ with NVRTC for an NVIDIA GPU that need not be there.

Extents are arguments of a launch, so many problems share a binary: what is known of one lies beside
it, and it is compiled once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.cubin import cuobjdump, mma_kind, resources, threads_of
from tiles.kernels.cuda.modules import (
    BINARIES,
    CUPY_OPTIONS,
    binary_name,
    keep_binary,
    read_source,
)
from tiles.kernels.nvrtc import compile_code, compiler_name

__all__ = ["available", "facts_of"]

#: From capability 90 on, ``cuobjdump`` counts what the system keeps of every CTA; limits do not.
SYSTEM_SMEM_BYTES = 1024
#: Of the file of facts beside a binary; another schema of facts gets another one.
FACTS_SUFFIX = ".facts-1.json"


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
    name = binary_name(code, options, target, compiler)
    facts = _kept(name)
    if facts is None:
        options = (*options, *CUPY_OPTIONS, f"--gpu-architecture={target}")
        made = compile_code(code, source.name, options)
        usage = resources(made.binary)
        if usage is not None:
            system = SYSTEM_SMEM_BYTES if limits.capability >= 90 else 0
            facts = CompileFacts(
                compiler=compiler,
                target=target,
                threads=threads_of(made.ptx) or 0,
                smem_bytes=max(0, usage.static_smem_bytes - system),
                registers=usage.registers,
                stack_bytes=usage.stack_bytes,
                pipeline_depth=0,
                mma=mma_kind(made.ptx),
            )
            keep_binary(_beside(name), json.dumps(facts.to_dict()).encode())
        keep_binary(name, made.binary)
    return None if facts is None else replace(facts, threads=facts.threads or threads)


def _beside(name: str) -> str:
    return name.removesuffix(".cubin") + FACTS_SUFFIX


def _kept(name: str) -> CompileFacts | None:
    """Facts of a binary that lies ready, 0 threads where its source does not say; else None."""
    if not (named := os.environ.get(BINARIES)) or not (Path(named) / name).is_file():
        return None
    try:
        return CompileFacts.from_dict(json.loads((Path(named) / _beside(name)).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
