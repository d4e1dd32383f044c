"""What an exception of candidate code means: the status and the one line that are recorded."""

import sys

from tiles.kernels import Status

__all__ = ["classify", "device_is_poisoned", "one_line", "ran_out_of_memory"]

#: Exceptions by name, so that neither triton nor cupy is imported to recognise them.
_COMPILER_ERRORS = frozenset(
    {
        "triton.compiler.errors.CompilationError",
        "triton.runtime.errors.OutOfResources",
        "triton.runtime.errors.PTXASError",
        "cupy.cuda.compiler.CompileException",
        "cupy_backends.cuda.libs.nvrtc.NVRTCError",
        "tiles.kernels.compile_facts.OfflineCompileError",
    }
)
#: Triton's MLIR passes fail with a bare RuntimeError.
_COMPILER_MESSAGES = ("PassManager::run failed", "failed to translate module to LLVM IR")
#: After these the process starts anew: what a failed configuration still holds goes with it.
_OUT_OF_MEMORY = frozenset(
    {
        "builtins.MemoryError",
        "torch.OutOfMemoryError",
        "torch.cuda.OutOfMemoryError",
        "cupy.cuda.memory.OutOfMemoryError",
    }
)
_REASON_CHARACTERS = 300


def one_line(text: str) -> str:
    """The first and the last line that are not empty, cut to a length that fits a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ends = lines if len(lines) < 2 else [lines[0], lines[-1]]
    return " ... ".join(ends)[:_REASON_CHARACTERS]


def _names(error: BaseException) -> set[str]:
    """Full names of the exception's classes."""
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def classify(error: BaseException) -> tuple[Status, str]:
    """COMPILE for what a compiler refused, RUNTIME for everything else, and the reason."""
    # Triton's message starts with the source around the error; the field holds what is wrong.
    said = getattr(error, "error_message", None) or str(error)
    reason = f"{type(error).__name__}: {one_line(str(said))}".removesuffix(": ")
    if _names(error) & _COMPILER_ERRORS or any(text in str(error) for text in _COMPILER_MESSAGES):
        return Status.COMPILE, reason
    return Status.RUNTIME, reason


def ran_out_of_memory(error: BaseException) -> bool:
    """True when an allocation on the host or on the device found no room."""
    return bool(_names(error) & _OUT_OF_MEMORY)


def device_is_poisoned() -> bool:
    """True when an earlier fault has left the CUDA context unusable, so the process must end."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
