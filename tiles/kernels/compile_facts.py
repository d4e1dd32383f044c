"""What a compiler made of a configuration, and whether a GPU can launch it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiles.kernels.base import Limits

__all__ = ["CompileFacts", "OfflineCompileError"]

#: Registers are handed out in this many a thread.  Source: CUDA occupancy calculator, cc 7.0-12.0.
REGISTER_UNIT = 8
MAX_THREADS_PER_CTA = 1024


class OfflineCompileError(RuntimeError):
    """A compiler that needs no GPU refused the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileFacts:
    """Resources and instructions of a compiled configuration.

    A launch of several kernels has the largest figure of each kind.
    """

    compiler: str  #: e.g. "triton 3.6.0"
    target: str  #: e.g. "sm_90"
    threads: int  #: of a CTA
    smem_bytes: int  #: of a CTA, static and dynamic
    registers: int  #: of a thread
    stack_bytes: int  #: of a thread, in local memory: above zero the compiler spilled registers
    pipeline_depth: int  #: tiles of an operand in flight in shared memory; 0 = no such pipeline
    mma: str  #: "wgmma", "tcgen05", "mma" (``mma.sync``), or "" for none

    def refusal(self, limits: "Limits") -> str:
        """Why the GPU cannot launch it; "" when it can."""
        if self.smem_bytes > limits.smem_bytes_per_cta:
            return f"smem {self.smem_bytes} B > {limits.smem_bytes_per_cta} B on {limits.gpu}"
        most = min(MAX_THREADS_PER_CTA, limits.threads_per_sm)
        if self.threads > most:
            return f"{self.threads} threads > {most} a CTA on {limits.gpu}"
        taken = -(-self.registers // REGISTER_UNIT) * REGISTER_UNIT * self.threads
        if taken > limits.registers_per_sm:
            return (
                f"{self.registers} registers x {self.threads} threads > "
                f"{limits.registers_per_sm} registers on {limits.gpu}"
            )
        return ""

    @classmethod
    def largest(cls, facts: Sequence["CompileFacts"]) -> "CompileFacts":
        """One record for the kernels of one launch; needs at least one."""
        return cls(
            compiler=facts[0].compiler,
            target=facts[0].target,
            threads=max(f.threads for f in facts),
            smem_bytes=max(f.smem_bytes for f in facts),
            registers=max(f.registers for f in facts),
            stack_bytes=max(f.stack_bytes for f in facts),
            pipeline_depth=max(f.pipeline_depth for f in facts),
            mma=next((f.mma for f in facts if f.mma), ""),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CompileFacts":
        """Read what :meth:`to_dict` wrote.

        Raises:
            TypeError: a field is missing, unknown or not of its type.
        """
        facts = cls(**data)
        for name in cls.__slots__:
            expected = str if name in ("compiler", "target", "mma") else int
            if type(getattr(facts, name)) is not expected:
                raise TypeError(f"{name} is not of type {expected.__name__}")
        return facts
