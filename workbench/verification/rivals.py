"""Times the package and what people would use instead, in one run, under one rule."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tiles.problems import Gemm
from tuning.timer import open_timer
from tuning.timing import Timing, time_interleaved
from workbench.verification.clock import clock_under_load
from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.operands import Pattern
from workbench.verification.quantize_entry import QuantizeEntry
from workbench.verification.recorder import Report
from workbench.verification.rival_products import (
    RIVALS,
    RivalProduct,
    clone,
    make_launch,
    rival_operands,
)

__all__ = ["Contender", "time_contenders", "time_products", "time_quantize"]

Launch = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to time: makes one launch on its own copy of the operands."""

    problem: str
    name: str
    make: Callable[[], Launch]
    set_bytes: int
    note: str = ""  #: what it does otherwise than the package


def _copies(contender: Contender) -> Callable[[int], Sequence[Callable[[], None]]]:
    def launchers(sets: int) -> Sequence[Callable[[], None]]:
        return [_discard(contender.make()) for _ in range(sets)]

    return launchers


def _discard(launch: Launch) -> Callable[[], None]:
    def run() -> None:
        launch()

    return run


def _bytes(*tensors: torch.Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _clone(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else clone(tensor)


def _own(entry: GemmEntry) -> Contender:
    a, b = entry.operands(entry.problem, Pattern.RANDOM)
    dtype = entry.package._torch_device.DTYPES[entry.problem.out]
    m, n, _ = entry.problem.shape

    def make() -> Launch:
        left = replace(a, codes=a.codes.clone(), scales=_clone(a.scales))
        right = replace(b, codes=b.codes.clone(), scales=_clone(b.scales))
        out = torch.empty(m, n, dtype=dtype, device=entry.device)
        return lambda: entry.launch(left, right, out)

    out_bytes = m * n * torch.empty(0, dtype=dtype).element_size()
    size = _bytes(a.codes, b.codes, a.scales, b.scales) + out_bytes
    return Contender(problem=str(entry.problem), name="this package", make=make, set_bytes=size)


def _rival(rival: RivalProduct, shape: tuple[int, int, int], seed: int, device: str) -> Contender:
    operands = rival_operands(rival, shape, seed=seed, device=device)
    return Contender(
        problem="gemm:" + "x".join(map(str, shape)),
        name=rival.name,
        make=lambda: make_launch(rival, operands),
        set_bytes=operands.set_bytes,
        note=rival.note,
    )


def _refusal(contender: Contender) -> str:
    """Why a contender cannot run, or ''."""
    try:
        contender.make()()
        torch.cuda.synchronize()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return str(error).strip().splitlines()[0][:300]
    return ""


def _clock(contender: Contender, l2_bytes: int) -> int | None:
    """The clock under one contender; one set of operands is enough to draw its power."""
    timer = open_timer(
        _copies(contender),
        set_bytes=contender.set_bytes,
        l2_bytes=l2_bytes,
        cache="warm",
        device="cuda",
    )
    return clock_under_load(timer)


def _line(
    contender: Contender,
    timing: Timing | None,
    *,
    refused: str = "",
    clock_mhz: int | None = None,
) -> dict[str, Any]:
    samples = () if timing is None else timing.samples_us
    ordered = sorted(samples)
    quartiles = (len(ordered) // 4, (3 * len(ordered)) // 4)
    spread = ordered[quartiles[1]] - ordered[quartiles[0]] if len(ordered) >= 4 else None
    return {
        "rival": {
            "problem": contender.problem,
            "rival": contender.name,
            "time_us": None if timing is None else timing.time_us,
            "iqr_us": spread,
            "samples_us": list(samples),
            "timing": "" if timing is None else timing.timing,
            "refused": refused,
            "sm_clock_mhz": clock_mhz,
            "note": contender.note,
        }
    }


def time_contenders(contenders: Sequence[Contender]) -> Iterator[dict[str, Any]]:
    """Time contenders in turns; a line of the report for each, refusals among them."""
    able = []
    for contender in contenders:
        if refused := _refusal(contender):
            yield _line(contender, None, refused=refused)
        else:
            able.append(contender)
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    timings = time_interleaved([(_copies(c), c.set_bytes) for c in able], l2_bytes=l2_bytes)
    for contender, timing in zip(able, timings, strict=True):
        yield _line(contender, timing, clock_mhz=_clock(contender, l2_bytes))


def time_products(entries: Sequence[GemmEntry], report: Report) -> None:
    """Time every tuned product beside the rivals of its shape."""
    by_shape: dict[tuple[int, int, int], list[GemmEntry]] = {}
    for entry in entries:
        problem: Gemm = entry.problem
        by_shape.setdefault(problem.shape, []).append(entry)
    for shape, same in by_shape.items():
        # The seed of the own entries, so that all multiply the same data.
        seed, device = same[0].seed, same[0].device
        rivals = (_rival(rival, shape, seed, device) for rival in RIVALS)
        for line in time_contenders([*(_own(entry) for entry in same), *rivals]):
            report(line)


def time_quantize(entry: QuantizeEntry, report: Report) -> None:
    """Time a tuned quantisation beside a copy of its input, which moves no fewer bytes."""
    rows, cols = entry.problem.shape
    dtype = entry.package._torch_device.DTYPES[entry.problem.source]
    x = torch.randn(rows, cols, device=entry.device).to(dtype)
    codes, scales = entry.package.quantize(x, str(entry.problem.target))

    def own() -> Launch:
        source, target, grid = x.clone(), _clone(codes), _clone(scales)
        assert target is not None
        assert grid is not None
        return lambda: entry.launch(source, target, grid)

    def copy() -> Launch:
        source, target = x.clone(), torch.empty_like(x)
        return lambda: target.copy_(source)

    contenders = [
        Contender(
            problem=str(entry.problem),
            name="this package",
            make=own,
            set_bytes=_bytes(x, codes, scales),
        ),
        Contender(
            problem=str(entry.problem),
            name="torch copy of the input",
            make=copy,
            set_bytes=2 * _bytes(x),
        ),
    ]
    for line in time_contenders(contenders):
        report(line)
