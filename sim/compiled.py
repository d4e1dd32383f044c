"""What compilers made of some rows of a table: true figures where the model has to estimate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.compile_facts import CompileFacts

__all__ = ["Compiled"]

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Columns of a table; rows that were not compiled keep the model's estimate."""

    known: NDArray[np.bool_]
    thread_registers: I64  #: of a thread
    smem_bytes: I64  #: of a CTA
    spilled_registers: I64  #: of a thread, 4 bytes each in local memory

    @classmethod
    def of(cls, rows: int, facts: Mapping[int, CompileFacts]) -> "Compiled":
        """Columns for a table of ``rows`` rows.

        Raises:
            ValueError: facts of a row that the table does not have.
        """
        columns = np.zeros((3, rows), np.int64)
        known = np.zeros(rows, np.bool_)
        for row, one in facts.items():
            if not 0 <= row < rows:
                raise ValueError(f"compile facts of row {row}: the table has {rows} rows")
            known[row] = True
            columns[:, row] = one.registers, one.smem_bytes, -(-one.stack_bytes // 4)
        return cls(
            known=known,
            thread_registers=columns[0],
            smem_bytes=columns[1],
            spilled_registers=columns[2],
        )

    def take(self, rows: I64) -> "Compiled":
        """The columns of some rows."""
        return Compiled(
            known=self.known[rows],
            thread_registers=self.thread_registers[rows],
            smem_bytes=self.smem_bytes[rows],
            spilled_registers=self.spilled_registers[rows],
        )

    def registers(self, estimate: I64) -> I64:
        """Registers of a thread that decide occupancy."""
        return np.where(self.known, self.thread_registers, estimate)

    def smem(self, estimate: I64) -> I64:
        """Bytes of shared memory of a CTA."""
        return np.where(self.known, self.smem_bytes, estimate)

    def live_registers(self, estimate: I64, most: int) -> I64:
        """Registers that a thread would need to spill none, of ``most`` that it can have."""
        return np.where(
            self.known, most * (self.spilled_registers > 0) + self.spilled_registers, estimate
        )
