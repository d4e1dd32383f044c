"""What a kernel family is to the rest of the workbench.

A *descriptor* (:class:`Kernel`) knows which problems its kernel serves, which configurations exist
and which of them are legal, and where the kernel's source lies.  It imports no torch, triton or
cupy.  The *workload* that it opens does: a workload holds one problem's operands on a device,
launches the kernel on them and checks the answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Problem

__all__ = [
    "Accepted",
    "Accuracy",
    "Backend",
    "Kernel",
    "LegalSpace",
    "Limits",
    "NumericPath",
    "Rejected",
    "Status",
    "Workload",
]


class Status(Enum):
    """How a configuration ended; the words of the TuningSchema T4 format."""

    CONSTRAINTS = "constraints"  #: refused before compiling
    COMPILE = "compile"  #: the compiler failed
    RUNTIME = "runtime"  #: the launch failed or the process died
    TIMEOUT = "timeout"  #: compile or run took longer than its limit
    CORRECTNESS = "correctness"  #: it ran and the answer was wrong
    CORRECT = "correct"  #: it ran and the answer was right


class Backend(Enum):
    """What compiles and launches a kernel."""

    TRITON = "triton"
    CUPY = "cupy"
    HOST = "host"  #: plain Python on the CPU; for tests and for extensions without a GPU


class NumericPath(Enum):
    """How a GPU executes a number format."""

    NATIVE = "native"  #: its tensor cores multiply the elements as they are stored
    EMULATED = "emulated"  #: elements are decoded to a wider format on the way to the tensor cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What legality needs to know of a GPU; made from a GPU file by ``sim``."""

    gpu: str
    vendor: str  #: "nvidia" or "amd"
    capability: int  #: NVIDIA 80, 90, 100, ...; AMD 942, 950
    smem_bytes_per_cta: int
    registers_per_sm: int
    threads_per_sm: int
    warp_threads: int
    native_elements: frozenset[str]  #: element names that the tensor cores multiply
    features: frozenset[str] = frozenset()  #: "tma", "wgmma", ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        sets = {"native_elements": sorted(self.native_elements), "features": sorted(self.features)}
        return asdict(self) | sets

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Limits":
        """Read what :meth:`to_dict` wrote."""
        sets = {name: frozenset(data[name]) for name in ("native_elements", "features")}
        return cls(**{**data, **sets})


@dataclass(frozen=True, slots=True)
class Accepted:
    """A configuration that may be compiled and launched."""

    config: TileConfig


@dataclass(frozen=True, slots=True)
class Rejected:
    """A configuration that may not, and why."""

    config: TileConfig
    status: Status
    rule: str  #: the rule's short name, e.g. "shared memory"
    reason: str  #: one line with rule and values, e.g. "smem 245760 B > 232448 B on h200"


@dataclass(frozen=True, slots=True)
class LegalSpace:
    """A kernel family's space for one problem on one GPU, split by the legality gate."""

    table: ConfigTable  #: the whole space
    rules: list[Rule]
    first_broken: NDArray[np.int64]  #: per row: index into ``rules``, or ``len(rules)`` when legal

    @property
    def accepted(self) -> ConfigTable:
        """The legal configurations, in enumeration order."""
        return self.table.take(self.first_broken == len(self.rules))

    @property
    def rejected(self) -> Iterator[Rejected]:
        """Every illegal configuration with the first rule it breaks."""
        for row in np.flatnonzero(self.first_broken < len(self.rules)).tolist():
            rule = self.rules[self.first_broken[row]]
            config = self.table.config(row)
            yield Rejected(config, Status.CONSTRAINTS, rule.name, rule.explain(row))

    @property
    def rejected_by_rule(self) -> dict[str, int]:
        """Number of configurations refused by each rule that refused any."""
        counts = np.bincount(self.first_broken, minlength=len(self.rules) + 1)
        return {r.name: int(n) for r, n in zip(self.rules, counts, strict=False) if n}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How far an output lies from the fp64 reference of the dequantised operands."""

    ok: bool
    max_error_over_bound: float  #: worst |out - reference| / a-priori bound; <= 1 passes
    relative_rms: float  #: ||out - reference|| / ||reference||
    reason: str = ""  #: when not ok: the first bad element, its index, value and bound


class Workload(ABC):
    """One problem instance on a device.  Lives in the measuring process; may import torch."""

    problem: Problem
    device: str  #: "cuda", or "cpu" (Triton's interpreter, plain Python)

    @abstractmethod
    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        """``sets`` launches on as many separate copies of operands and output, current stream."""

    @abstractmethod
    def check(self, config: TileConfig) -> Accuracy:
        """Poison the output, launch once, compare with the reference (kept between calls)."""

    @abstractmethod
    def compile(self, config: TileConfig) -> None:
        """Compile without running, leaving the binary in the compiler's disk cache."""

    @property
    @abstractmethod
    def set_bytes(self) -> int:
        """Bytes of one copy of operands and output: how many copies exceed the L2."""


class Kernel(ABC):
    """A kernel family: one template with a space of configurations."""

    name: ClassVar[str]
    backend: ClassVar[Backend]
    config_type: ClassVar[type[TileConfig]]

    @abstractmethod
    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        """Why this family cannot serve the problem on that GPU, or ``None`` when it can.

        A problem of another kind is refused as ``NAME serves KIND problems, not PROBLEM``: such
        reasons are told only where no family has another one.
        """

    @abstractmethod
    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        """Whether the GPU runs the problem's formats natively."""

    @abstractmethod
    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        """Every configuration of the family, each once, in a fixed order, legal or not."""

    @abstractmethod
    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """Every legality rule, applied to every row of the table."""

    @abstractmethod
    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        """A conservative legal configuration for a shape that was never tuned."""

    @property
    @abstractmethod
    def template(self) -> Path:
        """The template module; the files that it imports relatively ship with it."""

    @abstractmethod
    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        """Open the problem on a device with fresh random operands."""

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        """Compile for a GPU that need not be there: what the compiler made of the configuration.

        Called in processes that launch nothing.  What is compiled should lie in the compiler's
        disk cache afterwards, where a launch finds it.

        Returns:
            None where the family has no such compiler, or not for that GPU.

        Raises:
            whatever the compiler raises.
        """
        return None

    def judge(self, problem: Problem, config: TileConfig, limits: Limits) -> Accepted | Rejected:
        """The legality gate that heuristic, search and user configurations all pass."""
        for rule in self.rules(problem, ConfigTable.of([config]), limits):
            if rule.broken[0]:
                return Rejected(config, Status.CONSTRAINTS, rule.name, rule.explain(0))
        return Accepted(config)

    def legal_space(self, problem: Problem, limits: Limits) -> LegalSpace:
        """Enumerate the space and pass every configuration through the legality gate."""
        table = self.space(problem, limits)
        rules = self.rules(problem, table, limits)
        first_broken = np.full(len(table), len(rules))
        for index in reversed(range(len(rules))):
            np.copyto(first_broken, index, where=rules[index].broken)
        return LegalSpace(table, rules, first_broken)
