"""Bounds of the table's rows: counts of work at rates measured in the same run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.pipe_rates import Rate
from bench.reach import ISSUE, PROMOTION
from bench.reach_table import Bound
from tiles.problems import Gemm, Problem

__all__ = ["Executed", "bound_of", "issue_bound", "promotion_bound"]

_WARP_THREADS = 32
#: Of an accumulator in each scale block along K, by arithmetic: pipe -> operations.
#: The conversion and the FMA; or a sum that starts at 1.5 * 2^23, whose bits are a float already:
#: the start is moved in, subtracted from the sum, and the difference multiplied and added.
_PROMOTIONS: Mapping[str, Mapping[str, int]] = {
    "conversion and FMA": {"conversion": 1, "FFMA": 1, "issue slots": 2},
    "magic start, subtraction and FMA": {"FFMA": 2, "issue slots": 3},
}
#: Instructions of a thread in each operation of a stream.  Pairs of FFMA and LOP3 alone stay below
#: what conversions with FMAs reach, so the rate of issue is the best of all.
_INSTRUCTIONS: Mapping[str, int] = {
    "issue slots": 1,
    "FFMA": 1,
    "conversion": 1,
    "magic conversion": 2,
    "promotion": 2,
    "magic promotion": 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """Instructions that one launch of a problem executed, as the hardware counts them."""

    problem: str
    warp_instructions: int | None = None
    refused: str = ""  #: why they were not counted


def _block_k(problem: Gemm) -> int:
    """Elements of K under one scale."""
    scaling = problem.recipe.activation.scaling
    assert scaling is not None
    assert scaling.cols is not None
    return scaling.cols


def _issue_per_us(rates: Sequence[Rate]) -> float | None:
    """Most instructions of threads that any stream issued in a us; None: no stream was timed."""
    return max(
        (
            _INSTRUCTIONS[rate.stream] * rate.per_us
            for rate in rates
            if rate.per_us is not None and rate.stream in _INSTRUCTIONS
        ),
        default=None,
    )


def promotion_bound(problem: Gemm, rates: Sequence[Rate]) -> Bound:
    """Least time of an int8 product whose sums are promoted to fp32 at the end of every block.

    Products on the tensor cores, conversions, FMAs and issue slots, each at its own rate as if the
    others were free; scales, memory and the epilogue are left out.
    """
    known = {rate.stream: rate.per_us for rate in rates if rate.per_us is not None}
    issued = _issue_per_us(rates)
    if issued is not None:
        known["issue slots"] = issued
    products = [value for name, value in known.items() if name.startswith("products,")]
    missing = [name for name in ("conversion", "FFMA") if name not in known]
    if missing or not products:
        why = next((rate.refused for rate in rates if rate.refused), "")
        names = ", ".join(missing or ["products"])
        return Bound(name=PROMOTION, refused=f"no rate of {names}{why and ': ' + why}")
    m, n, k = problem.shape
    promoted = m * n * math.ceil(k / _block_k(problem))
    tensor_us = m * n * k / max(products)
    best: tuple[float, str] | None = None
    for name, pipes in _PROMOTIONS.items():
        times = {pipe: count * promoted / known[pipe] for pipe, count in pipes.items()}
        times["tensor cores"] = tensor_us
        binds = max(times, key=times.__getitem__)
        if best is None or times[binds] < best[0]:
            best = times[binds], f"{name}; {binds} bind"
    assert best is not None
    return Bound(name=PROMOTION, time_us=best[0], how=best[1])


def issue_bound(executed: Executed | None, rates: Sequence[Rate]) -> Bound:
    """Least time to issue the instructions that a launch executed."""
    rate = _issue_per_us(rates)
    if rate is None:
        return Bound(name=ISSUE, refused="no rate of issue slots")
    if executed is None or executed.warp_instructions is None:
        reason = "not counted" if executed is None else executed.refused
        return Bound(name=ISSUE, refused=f"instructions: {reason}")
    count = executed.warp_instructions
    return Bound(
        name=ISSUE,
        time_us=_WARP_THREADS * count / rate,
        how=f"{count} instructions of warps at {rate / _WARP_THREADS:.0f} a us",
    )


def bound_of(
    name: str, problem: Problem, rates: Sequence[Rate], executed: Mapping[str, Executed]
) -> Bound:
    """A row's bound by its name.

    Args:
        executed: by the problem's text.
    """
    if name == PROMOTION:
        assert isinstance(problem, Gemm)
        return promotion_bound(problem, rates)
    assert name == ISSUE
    return issue_bound(executed.get(str(problem)), rates)
