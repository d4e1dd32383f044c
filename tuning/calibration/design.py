"""Which kernels to time: a seeded sample spread over families, formats, rows and depths.

Spread, not optimal: designs that minimise a model's variance put all points where the model is
wrong in the same way.  Every choice is the study whose family, format, rows and depth have been
taken least so far.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim import Gpu, unpriced
from tiles.kernels import kernels
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import recipe
from tuning.plan import StudyPlan

__all__ = ["PER_STUDY", "Stratum", "design"]

#: Timings of one study, from three of the four bins of predicted time that follow one another;
#: the slowest bin holds the spillers.
PER_STUDY = 3
RECIPES = (
    *("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "jetfire"),
    *("w4a16-g128", "w8a16", "mxfp8-e4m3"),
)
ROWS = (16, 64, 256, 1024, 4096, 8192, 16_384)
#: N and K: square, wide, deep, shallow ones.
SIDES = (
    *((4096, 4096), (7168, 2048), (2112, 7168), (3072, 768), (8192, 256), (1024, 384)),
    *((4096, 14_336), (14_336, 4096)),
)
QUANTIZED = ("e4m3-row", "deepseek-fp8", "jetfire", "mxfp8-e4m3")
#: How many times as many studies a family gets as the others.
SHARES = {"triton_gemm": 4, "hopper_gemm": 4, "hopper_skinny_gemm": 2, "hopper_block_gemm": 2}
#: A product beyond this takes longer than it tells.
MOST_FLOPS = 4e12


@dataclass(frozen=True, slots=True)
class Stratum:
    """What a study counts for."""

    family: str
    fmt: str
    rows: str  #: decode, middle, prefill, or large
    depth: str  #: shallow, usual, or deep

    @classmethod
    def of(cls, problem: Problem, family: str) -> "Stratum":
        """The stratum of a product or a quantisation."""
        rows, depth = problem.shape[0], problem.shape[-1]
        fmt = problem.formats[0]
        return cls(
            family=family,
            fmt=fmt,
            rows=(
                "decode"
                if rows <= 64
                else "middle"
                if rows <= 1024
                else "prefill"
                if rows < 8192
                else "large"
            ),
            depth="shallow" if depth < 512 else "usual" if depth <= 4096 else "deep",
        )


def _candidates(gpu: Gpu) -> list[tuple[Problem, str]]:
    limits = gpu.limits
    problems: list[Problem] = [
        Gemm(m=m, n=n, k=k, recipe=recipe(name))
        for name in RECIPES
        for m in ROWS
        for n, k in SIDES
        if 2.0 * m * n * k <= MOST_FLOPS
    ]
    problems += [
        Quantize(rows=m, cols=k, target=recipe(name).activation)
        for name in QUANTIZED
        for m in (64, 1024, 8192)
        for k in (4096, 14_336)
    ]
    families = list(kernels().values())
    return [
        (problem, family.name)
        for problem in problems
        for family in families
        if family.refusal(problem, limits) is None and unpriced(problem, family) is None
    ]


def design(gpu: Gpu, timings: int, seed: int) -> tuple[StudyPlan, ...]:
    """Studies of :data:`PER_STUDY` timings each, ``timings`` in all, or as near as they divide.

    Raises:
        ValueError: no kernel family runs on that GPU.
    """
    candidates = _candidates(gpu)
    if not candidates:
        raise ValueError(f"no kernel family runs on {gpu.name}: nothing can be timed")
    strata = [Stratum.of(problem, family) for problem, family in candidates]
    order = np.random.default_rng(seed).permutation(len(candidates)).tolist()
    chosen: list[int] = []
    taken: Counter[tuple[str, ...]] = Counter()
    for _ in range(min(len(candidates), max(1, round(timings / PER_STUDY)))):
        best = min(order, key=lambda place: _crowding(strata[place], taken))
        order.remove(best)
        chosen.append(best)
        taken.update(_marks(strata[best]))
    return tuple(
        StudyPlan(problem=candidates[place][0], kernel=candidates[place][1]) for place in chosen
    )


def _marks(one: Stratum) -> Sequence[tuple[str, ...]]:
    return (
        ("family", one.family),
        ("format", one.fmt),
        ("rows", one.rows),
        ("depth", one.depth),
        ("family rows", one.family, one.rows),
        ("family format", one.family, one.fmt),
    )


def _crowding(one: Stratum, taken: Counter[tuple[str, ...]]) -> float:
    """How well what a study stands for is served already."""
    share = SHARES.get(one.family, 1)
    family, *others = _marks(one)
    return 3.0 * taken[family] / share + sum(taken[mark] for mark in others) / 2.0
