"""What a fit may change: figures of a GPU and template parameters, as factors on their priors.

Three levels, so that what one format or family teaches serves the others: *machine* figures hold
for every family, *template* parameters for one family and all its formats, and a *format* brings
its tensor-core rate and instruction counts alone.  A format that was never measured is predicted
with all the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.gpu_figures import PEAKS
from sim.model import template_parameters
from sim.parameters import Parameters
from tiles.kernels import Kernel
from tiles.problems import Problem

__all__ = ["MACHINE_SIGMAS", "RATE_SIGMA", "Machine", "Unknown", "Unknowns"]

F64 = NDArray[np.float64]

#: Owners of unknowns that are no kernel family: the GPU's figures, its tensor cores' rates.
GPU, RATES = "gpu", "tensor_flop_per_clk"
#: Standard deviation of the log of each machine figure, where no microbenchmark measured it.
MACHINE_SIGMAS: dict[str, float] = {
    "sustained_clock_mhz": 0.10,
    "tensor_share": 0.03,
    "mma_sync_share": 0.10,
    "smem_bytes_per_clk": 0.05,
    "l2_bytes": 0.20,
    "l2_read_gb_per_s": 0.20,
    "l2_bytes_per_clk_per_sm": 0.10,
    "dram_read_gb_per_s": 0.05,
    "dram_copy_gb_per_s": 0.05,
    "l2_latency_ns": 0.20,
    "dram_latency_ns": 0.20,
    "tma_extra_latency_ns": 0.30,
    "graph_launch_us": 0.20,
    "fma_per_clk": 0.05,
    "int_per_clk": 0.10,
    "convert_per_clk": 0.10,
}
#: The same of an element's rate on the tensor cores.
RATE_SIGMA = 0.02
#: Figures that no fit may carry beyond another figure or a limit.
_SHARES = ("tensor_share", "mma_sync_share")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """One value to be fitted."""

    owner: str  #: "gpu", "tensor_flop_per_clk" or a kernel family
    name: str  #: figure, element or template parameter
    median: float  #: of the prior
    sigma: float  #: standard deviation of its log

    @property
    def shared(self) -> bool:
        """Whether it moves every family's times."""
        return self.owner in (GPU, RATES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A GPU and template parameters by family: everything that prices depend on."""

    gpu: Gpu
    templates: Mapping[str, Parameters]


class Unknowns:
    """The vector of unknowns of some problems and families.

    Args:
        gpu: figures as known before: of the file, or of microbenchmarks where there are any.
        pairs: problems and the families that were measured on them.
        sigmas: by figure or ``tensor_flop_per_clk.ELEMENT``; for what a microbenchmark measured.
    """

    def __init__(
        self,
        gpu: Gpu,
        pairs: Sequence[tuple[Problem, Kernel]],
        sigmas: Mapping[str, float] | None = None,
    ) -> None:
        given = sigmas or {}
        self._gpu = gpu
        self._templates: dict[str, Parameters] = {}
        self.users: list[set[str]] = []  #: by pair: the families whose parameters it takes
        for problem, kernel in pairs:
            used = template_parameters(problem, kernel)
            self._templates |= used
            self.users.append(set(used))
        found = [
            Unknown(owner=GPU, name=name, median=value, sigma=given.get(name, sigma))
            for name, sigma in MACHINE_SIGMAS.items()
            if (value := float(getattr(gpu, name))) > 0
        ]
        found += [
            Unknown(
                owner=RATES,
                name=name,
                median=rate,
                sigma=given.get(f"{RATES}.{name}", RATE_SIGMA),
            )
            for name, rate in gpu.tensor_flop_per_clk.items()
        ]
        for family, record in self._templates.items():
            found += [
                Unknown(owner=family, name=name, median=getattr(record, name), sigma=float(sigma))
                for name, sigma in zip(record.names(), record.sigmas(), strict=True)
            ]
        self.all = tuple(found)
        self.sigmas: F64 = np.array([one.sigma for one in found])

    def __len__(self) -> int:
        return len(self.all)

    def machine(self, logs: F64) -> Machine:
        """GPU and parameters at a point.

        Args:
            logs: (unknowns,) log of value over prior median; zeros are the priors themselves.
        """
        factors: dict[str, dict[str, float]] = {}
        # Exactly the prior at 0: exp(0) is 1, and a product with 1 is the same number.
        for one, factor in zip(self.all, np.exp(logs).tolist(), strict=True):
            factors.setdefault(one.owner, {})[one.name] = factor
        figures = {
            name: getattr(self._gpu, name) * factor
            for name, factor in factors.pop(GPU).items()
            if factor != 1.0
        }
        for name in _SHARES:
            if name in figures:
                figures[name] = min(1.0, figures[name])
        for name, peak in PEAKS.items():
            if name in figures:
                figures[name] = min(figures[name], getattr(self._gpu, peak))
        if "l2_bytes" in figures:
            figures["l2_bytes"] = round(figures["l2_bytes"])
        rates = {
            name: rate * factors[RATES].get(name, 1.0)
            for name, rate in self._gpu.tensor_flop_per_clk.items()
        }
        return Machine(
            gpu=replace(self._gpu, tensor_flop_per_clk=rates, **figures),
            templates={
                family: record.scaled(factors[family]) for family, record in self._templates.items()
            },
        )
