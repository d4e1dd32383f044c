"""The table's script without a GPU: every row on small shapes, and a timer that times nothing.

Triton's kernels run in its interpreter and are checked; those of CUDA C++ are compiled for the GPU
file.  Peers that torch has on a CPU are checked; the others say why not.  Every launch that would
be timed is made once.  Times are nan throughout: nothing can be taken for a measurement.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.bounds import Executed
from bench.pipe_rates import STREAMS, Rate, compile_stream
from bench.reach import ROWS, Row
from bench.winners import Winner
from sim import Gpu, load_gpu
from tiles.kernels import Accuracy, Backend, Kernel, Rejected, TileConfig, Workload, kernels
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, Problem, parse_problem

if TYPE_CHECKING:
    from tuning.timer import Launchers
    from tuning.timing import Timing

__all__ = ["defaults", "dry_executed", "dry_rates", "dry_timer", "fitted", "open_small", "small"]

SEED = 0
#: Extents that the interpreter gets through in a moment; K of two blocks of 128.
EXTENT, K_EXTENT, EXPERTS = 96, 160, 2


class CompiledWorkload(Workload):
    """A kernel that is compiled in place of being run."""

    device = "cpu"

    def __init__(self, problem: Problem, family: Kernel, gpu: Gpu) -> None:
        self.problem, self._family, self._gpu = problem, family, gpu

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        """Launches of nothing."""
        return [lambda: None] * sets

    def check(self, config: TileConfig) -> Accuracy:
        """Whether the compiler takes the configuration and the GPU can hold it."""
        facts = self._family.compile_offline(self.problem, config, self._gpu.limits)
        if facts is None:
            said, ok = "not compiled: NVRTC or cuobjdump is missing", True
        else:
            refusal = facts.refusal(self._gpu.limits)
            said, ok = refusal or f"compiled for {facts.target}, not run", not refusal
        nan = math.nan
        return Accuracy(ok=ok, max_error_over_bound=nan, relative_rms=nan, reason=said)

    def compile(self, config: TileConfig) -> None:
        self.check(config)

    @property
    def set_bytes(self) -> int:
        """Of operands that are never made."""
        return self.problem.min_bytes


def small(problem: Problem) -> Problem:
    """The same work on extents that the interpreter gets through."""
    shape = [min(extent, EXTENT) for extent in problem.shape]
    if isinstance(problem, (Gemm, BatchedGemm, GroupedGemm)):
        shape[-1] = min(problem.shape[-1], K_EXTENT)
    if isinstance(problem, (BatchedGemm, GroupedGemm)):
        shape[0] = min(shape[0], EXPERTS)
    return problem.resized(*shape)


def fitted(winner: Winner) -> Winner:
    """The winner on its small problem; a configuration that is not legal there gives way."""
    if winner.family.backend is not Backend.TRITON:
        return winner
    problem, limits = small(winner.problem), winner.gpu.limits
    config = winner.config
    if isinstance(winner.family.judge(problem, config, limits), Rejected):
        config = winner.family.default(problem, limits)
    return replace(winner, problem=problem, config=config)


def open_small(winner: Winner) -> Workload:
    """Ours without a GPU; CUDA C++ is compiled for the problem as it is."""
    if winner.family.backend is Backend.TRITON:
        return winner.family.workload(winner.problem, device="cpu", seed=SEED)
    return CompiledWorkload(winner.problem, winner.family, winner.gpu)


def defaults(rows: Iterable[Row] = ROWS) -> list[tuple[Row, Winner]]:
    """One problem of each row and format, with the default of every backend that serves it."""
    gpu = load_gpu("h200")
    found: list[tuple[Row, Winner]] = []
    for row in rows:
        seen: set[tuple[str, ...]] = set()
        for problem in map(parse_problem, row.problems):
            kind = (problem.kind, *problem.formats)
            if kind in seen:
                continue
            seen.add(kind)
            served = [k for k in kernels().values() if k.refusal(problem, gpu.limits) is None]
            # One of Triton, whose answer can be checked; one of CUDA C++ where there is no other.
            family = next((k for k in served if k.backend is Backend.TRITON), served[0])
            found.append(
                (
                    row,
                    Winner(
                        problem=problem,
                        family=family,
                        config=family.default(problem, gpu.limits),
                        gpu=gpu,
                        run="",
                        swept_us=math.nan,
                    ),
                )
            )
    return found


def dry_rates() -> list[Rate]:
    """Rates that nothing can be taken from; their kernels are compiled where NVRTC is there.

    Raises:
        RuntimeError: NVRTC refuses a stream.
    """
    from tiles.kernels.nvrtc import compiler_name

    if compiler_name() is not None:
        for stream in STREAMS:
            compile_stream(stream)
    return [Rate(stream=s.name, unit=s.unit, per_clk=math.nan, per_us=math.nan) for s in STREAMS]


def dry_executed(problems: Iterable[Problem]) -> dict[str, Executed]:
    """Counts that nothing can be taken from."""
    return {str(p): Executed(problem=str(p), warp_instructions=0) for p in problems}


def dry_timer(rivals: "Sequence[tuple[Launchers, int]]") -> "Sequence[Timing]":
    """Make every launch once on two sets of operands; every time is nan."""
    from tuning.timing import Timing

    for launchers, _ in rivals:
        for launch in launchers(2):
            launch()
    nothing = Timing(time_us=math.nan, samples_us=(math.nan,) * 4, timing="dry, not timed")
    return [nothing] * len(rivals)
