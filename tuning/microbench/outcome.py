"""How a microbenchmark ended: figures, or the reason why the file's stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim import Gpu
from sim.gpu_figures import check_figure, check_peak
from tiles.kernels import Status
from tuning.microbench.catalogue import RATES, Microbenchmark
from tuning.microbench.quantity import Figure
from tuning.microbench.sample import Sample, samples_from, samples_to

__all__ = ["Outcome", "reduced", "used_figures"]

#: A figure further from the GPU file's is a fault of the measurement, or another GPU.
LEAST_RATIO, MOST_RATIO = 0.4, 2.0
#: No figure is known better than this, whatever its samples' spread.
LEAST_SPREAD = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One microbenchmark."""

    name: str
    status: Status
    reason: str  #: why it is not CORRECT
    figures: tuple[Figure, ...]
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {
            "name": self.name,
            "status": self.status.value,
            "reason": self.reason,
            "figures": [one.to_dict() for one in self.figures],
            "samples": samples_to(self.samples),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Outcome":
        """Read what :meth:`to_dict` wrote."""
        return cls(
            name=data["name"],
            status=Status(data["status"]),
            reason=data["reason"],
            figures=tuple(Figure(**one) for one in data["figures"]),
            samples=tuple(samples_from(data["samples"])),
        )


def reduced(benchmark: Microbenchmark, gpu: Gpu, samples: Sequence[Sample]) -> Outcome:
    """Figures of samples; what no GPU of that file can have fails with its reason."""
    try:
        figures = tuple(benchmark.reduce(gpu, samples))
        for one in figures:
            _check(one, gpu)
    except ValueError as error:
        return Outcome(
            name=benchmark.name,
            status=Status.CORRECTNESS,
            reason=str(error),
            figures=(),
            samples=tuple(samples),
        )
    return Outcome(
        name=benchmark.name,
        status=Status.CORRECT,
        reason="",
        figures=figures,
        samples=tuple(samples),
    )


def _stated(name: str, gpu: Gpu) -> float | None:
    """The GPU file's value of a figure; ``None`` for one that is kept for information."""
    owner, _, element = name.partition(".")
    if owner == RATES:
        return gpu.tensor_flop_per_clk.get(element)
    try:
        check_figure(name, 1e9)
    except ValueError as error:
        if str(error).startswith("unknown figure"):
            return None
    return float(getattr(gpu, name))


def _check(one: Figure, gpu: Gpu) -> None:
    stated = _stated(one.name, gpu)
    if stated is None:
        return
    check_figure(one.name.partition(".")[0], one.value)
    check_peak(gpu, one.name, one.value)
    ratio = one.value / stated
    if not LEAST_RATIO <= ratio <= MOST_RATIO:
        raise ValueError(
            f"{one.name} = {one.value:.4g} {one.unit} is {ratio:.3g} times the GPU file's "
            f"{stated:.4g}: not used"
        )


def used_figures(outcomes: Sequence[Outcome], gpu: Gpu) -> dict[str, Figure]:
    """Figures that stand in for the GPU file's, by name."""
    return {
        one.name: Figure(
            name=one.name, value=one.value, unit=one.unit, spread=max(LEAST_SPREAD, one.spread)
        )
        for outcome in outcomes
        for one in outcome.figures
        if _stated(one.name, gpu) is not None
    }
