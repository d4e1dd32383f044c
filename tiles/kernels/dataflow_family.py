"""What both dataflow families share: refusals, rules of a block and its threads, compilation."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import Rounding, Scaling
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Dataflow, Problem

__all__ = [
    "I64",
    "LINE_VECTORS",
    "VECTOR",
    "WARP",
    "DataflowKernel",
    "block_of",
    "items",
    "power_of_two",
]

I64 = NDArray[np.int64]

ELEMENTS = ("int8", "e4m3fn")
#: First NVIDIA capability with conversion instructions for 8-bit floats.
CAST_CAPABILITY = 89
#: Codes that a thread moves at once.
VECTOR = 16
#: Vectors of a line of memory: blocks side by side that threads share, ``cuda.dataflow_arguments``.
LINE_VECTORS = 8
#: Lanes that share a row of a block at most.
WARP = 32
MAX_THREADS = 1024
MAX_BLOCKS = 2**31 - 1
MAX_REGISTERS = 255
#: A block lies in the registers of one CTA.
MAX_BLOCK_ELEMENTS = 128 * 128
#: Vectors of a block that a thread keeps as fp32 between its largest value and its codes.
MAX_ITEMS = 4


def scaling_of(problem: Dataflow) -> Scaling:
    """That of the problem's codes."""
    assert problem.target.scaling is not None  # Dataflow refuses formats without scaling
    return problem.target.scaling


def block_of(problem: Dataflow) -> tuple[int, int]:
    """Rows and columns under one scale."""
    scaling = scaling_of(problem)
    assert scaling.rows is not None  # refused by `refusal`
    assert scaling.cols is not None
    return scaling.rows, scaling.cols


def power_of_two(values: I64) -> NDArray[np.bool_]:
    """Which of them are 1, 2, 4, ..."""
    powers: NDArray[np.bool_] = (values > 0) & (values & (values - 1) == 0)
    return powers


def items(problem: Dataflow, table: ConfigTable) -> I64:
    """Vectors of 16 codes of one block that each of its threads has."""
    rows, cols = block_of(problem)
    vectors = rows * cols // VECTOR
    counted: I64 = -(-vectors // np.maximum(table["lanes"], 1))
    return counted


class DataflowKernel(Kernel):
    """A family of dataflow kernels; ``ops``: the operators that it serves."""

    backend: ClassVar[Backend] = Backend.CUPY
    ops: ClassVar[tuple[str, ...]]

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Dataflow):
            return f"{self.name} serves dataflow problems, not {problem}"
        if problem.op not in self.ops:
            return f"{self.name} serves {', '.join(self.ops)}, not {problem.op}"
        if problem.target.element.name not in ELEMENTS:
            return f"{self.name} takes {', '.join(ELEMENTS)}, not {problem.target.element}"
        scaling = scaling_of(problem)
        rounds = problem.target.rounding in (Rounding.NEAREST_EVEN, Rounding.STOCHASTIC)
        if not (scaling.plain and rounds and problem.target.saturate):
            return (
                f"{self.name} writes fp32 absmax scales and saturates, rounded to even or +sr, not "
                f"{problem.target}"
            )
        if scaling.rows is None or scaling.cols is None:
            return f"{self.name} takes block scalings, not {scaling}"
        extents = (scaling.rows, scaling.cols)
        if any(n & (n - 1) for n in extents) or scaling.cols < VECTOR:
            return f"{self.name} takes powers of two, at least {VECTOR} columns, not {scaling}"
        if scaling.rows * scaling.cols > MAX_BLOCK_ELEMENTS:
            return f"{self.name} keeps a block in a CTA's registers, {scaling} is too large"
        if limits.vendor != "nvidia":
            return f"{self.name} is CUDA C++ and {limits.gpu} is not an NVIDIA GPU"
        needed = 80 if problem.target.element.name == "int8" else CAST_CAPABILITY
        if limits.capability < needed:
            return f"{self.name} needs capability {needed}, {limits.gpu} has {limits.capability}"
        blocks = problem.target.scale_count(problem.rows, problem.cols)
        if blocks > MAX_BLOCKS:
            return f"{self.name} serves at most {MAX_BLOCKS} blocks, {problem} has {blocks}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.dataflow_workload import DataflowWorkload

        assert isinstance(problem, Dataflow)
        return DataflowWorkload(problem, device=device, seed=seed)

    @staticmethod
    def lanes(problem: Dataflow) -> list[int]:
        """Threads for a block that have one, two or four of its vectors each."""
        rows, cols = block_of(problem)
        vectors = rows * cols // VECTOR
        return sorted({max(1, vectors // n) for n in (1, 2, 4)})

    @staticmethod
    def common_rules(
        problem: Dataflow, table: ConfigTable, limits: Limits, registers: I64
    ) -> list[Rule]:
        """Of both families; ``registers``: about how many a thread takes."""
        threads, lanes, ctas = table["threads"], table["lanes"], table["ctas"]
        rows, cols = block_of(problem)
        vectors = rows * cols // VECTOR
        have = items(problem, table)
        resident = np.maximum(threads * ctas, 1)
        available = np.minimum(MAX_REGISTERS, limits.registers_per_sm // resident // 8 * 8)
        return [
            Rule(
                "threads",
                ~power_of_two(threads) | (threads < 32) | (threads > MAX_THREADS),
                lambda i: (
                    f"{threads[i]} threads: a power of two from 32 to {MAX_THREADS} is needed"
                ),
            ),
            Rule(
                "lanes",
                ~power_of_two(lanes) | (lanes > threads) | (lanes > vectors),
                lambda i: (
                    f"{lanes[i]} lanes: a power of two, at most the {threads[i]} threads and the "
                    f"{vectors} vectors of a block, is needed"
                ),
            ),
            Rule(
                "items",
                have > MAX_ITEMS,
                lambda i: f"{have[i]} vectors of a block a thread > {MAX_ITEMS}",
            ),
            Rule(
                "residency",
                (ctas < 1) | (resident > limits.threads_per_sm),
                lambda i: (
                    f"{ctas[i]} CTAs of {threads[i]} threads: 1 to {limits.threads_per_sm} threads "
                    f"are resident on {limits.gpu}"
                ),
            ),
            Rule(
                "registers",
                registers > available,
                lambda i: (
                    f"about {registers[i]} registers a thread > {available[i]} with {ctas[i]} CTAs "
                    f"of {threads[i]} threads on {limits.gpu}"
                ),
            ),
        ]

    @staticmethod
    def shared_memory_rule(smem: I64, limits: Limits) -> Rule:
        """What a CTA takes, against what it can have."""
        return Rule(
            "shared memory",
            smem > limits.smem_bytes_per_cta,
            lambda i: f"smem {smem[i]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        )

    def offline(
        self, options: tuple[str, ...], dynamic_smem_bytes: int, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        """Compile facts of the family's source with these options."""
        from tiles.kernels.offline_cuda import facts_of

        threads = int(config.to_dict()["threads"])
        facts = facts_of(self.template.with_suffix(".cu"), options, threads, limits)
        if facts is None:
            return None
        return replace(facts, smem_bytes=facts.smem_bytes + dynamic_smem_bytes)
