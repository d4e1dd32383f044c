"""The sweep file: what to search, where and for how long, as YAML; parsed once, here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tiles.intake import nearest, shown
from tiles.kernels import Kernel, Limits, kernel, kernels, telling
from tiles.problems import Problem
from tiles.problems.gemm import check_output
from tiles.recipes import recipe
from workbench.edge import StrictEntry, complaint
from workbench.sweep_entries import (
    KINDS,
    Entry,
    MeasureEntry,
    PathText,
    ProblemEntry,
    SearchEntry,
    beside,
)
from workbench.sweep_problems import problems_of
from workbench.time_limit import parse_time_limit
from workbench.yamltext import load_yaml

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import Plan

__all__ = ["SweepFile", "Unserved", "load_sweepfile"]

SCHEMA = 1
MAX_ENTRIES = 1_000


def _schema(version: int) -> int:
    # Not a Literal, which takes 1.0 and true for 1.
    if version != SCHEMA:
        raise ValueError(f"must be {SCHEMA}, got {shown(version)}: correct it")
    return version


def _names_file(gpu: str) -> bool:
    """Whether a ``gpu`` value is a path rather than a name."""
    return gpu.endswith((".yaml", ".yml")) or "/" in gpu or os.sep in gpu


def _any_kernel(value: Any) -> Any:
    """``any`` stands for every family, which is ``None`` inside."""
    if value == "any":
        return None
    if not isinstance(value, list):
        raise ValueError(
            f"takes any or a list of kernel families ({', '.join(kernels())}), "
            f"got {shown(value)}: correct it"
        )
    return value


_Name = Annotated[str, Field(min_length=1, max_length=100)]
_RecipeName = Annotated[_Name, AfterValidator(lambda name: recipe(name).name)]
_KernelName = Annotated[_Name, AfterValidator(lambda name: kernel(name).name)]


def _output_format(name: str) -> str:
    check_output(name)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """A problem that no chosen kernel family can run on the GPU, and why."""

    problem: Problem
    reasons: Mapping[str, str]  #: kernel family to its refusal

    def __str__(self) -> str:
        return f"{self.problem}: {'; '.join(telling(self.reasons.values(), self.problem))}"


class SweepFile(StrictEntry):
    """A sweep file as it was written; paths of models and GPU files are absolute once loaded."""

    schema_version: Annotated[int, AfterValidator(_schema)] = Field(alias="schema")
    gpu: PathText
    entries: Annotated[list[Entry], Field(min_length=1, max_length=MAX_ENTRIES)] = Field(
        alias="problems"
    )
    #: Of products given by model or shape; needed where there are any.
    recipes: list[_RecipeName] = Field(default_factory=list, min_length=1, max_length=100)
    out: Annotated[_Name, AfterValidator(_output_format)] = "bf16"  #: element format of C
    kernels: Annotated[
        Annotated[list[_KernelName], Field(min_length=1, max_length=100)] | None,
        BeforeValidator(_any_kernel),
    ] = None  #: families to choose from; None: any
    search: SearchEntry = SearchEntry()
    measure: MeasureEntry = MeasureEntry()
    objective: Literal["time", "energy"] = "time"
    quantize: bool = True  #: also search the quantisation of the activations that recipes need
    output: PathText | None = None  #: run folder; None: the caller of ``to_plan`` gives it

    _problems: tuple[Problem, ...] = PrivateAttr(default=())

    @field_validator("gpu")
    @classmethod
    def _known_gpu(cls, value: str, info: ValidationInfo) -> str:
        from sim import gpu_names, load_gpu

        if _names_file(value):
            value = beside(value, info)
        elif value not in gpu_names():
            raise ValueError(
                f"unknown GPU {shown(value)}: {nearest(value, gpu_names())}choose one of "
                f"{', '.join(gpu_names())}, or give the path of a GPU file"
            )
        load_gpu(value)
        return value

    @model_validator(mode="after")
    def _expand(self) -> Self:
        if not self.recipes and not all(isinstance(e, ProblemEntry) for e in self.entries):
            raise ValueError("recipes: this key is missing: add it")
        # Model files are read here, once: a sweep file that loads can be planned.
        recipes = [recipe(name) for name in self.recipes]
        found = problems_of(self.entries, recipes, out=self.out, quantize=self.quantize)
        self._problems = tuple(found)
        return self

    def problems(self) -> list[Problem]:
        """Every problem once: products shape by shape, each shape followed by its quantisations."""
        return list(self._problems)

    def families(self) -> list[Kernel]:
        """The kernel families to choose from."""
        return [kernel(name) for name in self.kernels or kernels()]

    def studies(self) -> list[tuple[Problem, str]]:
        """(problem, kernel family) for every family that can run the problem on the GPU."""
        limits = self._limits()
        return [
            (problem, family.name)
            for problem in self._problems
            for family in self.families()
            if family.refusal(problem, limits) is None
        ]

    def unserved(self) -> list[Unserved]:
        """The problems that :meth:`studies` leaves out, each with every family's reason."""
        limits = self._limits()
        found: list[Unserved] = []
        for problem in self._problems:
            refusals = {f.name: f.refusal(problem, limits) for f in self.families()}
            reasons = {name: reason for name, reason in refusals.items() if reason is not None}
            if len(reasons) == len(refusals):
                found.append(Unserved(problem=problem, reasons=reasons))
        return found

    def unsimulated(self, on: str | None = None) -> list[str]:
        """Why a simulated sweep leaves families out that a measured one would search.

        Raises:
            ValueError: ``on`` is malformed.
        """
        return list(dict.fromkeys(self._unpriced(self._simulated(on)).values()))

    def _unpriced(self, simulate: bool) -> dict[tuple[Problem, str], str]:
        """Studies that a simulated sweep has no times for; families asked for by name stay."""
        from sim import unpriced

        if not simulate or self.kernels is not None:
            return {}
        reasons = {study: unpriced(study[0], kernel(study[1])) for study in self.studies()}
        return {study: reason for study, reason in reasons.items() if reason is not None}

    def _simulated(self, on: str | None) -> bool:
        from sim import load_gpu

        place = self.measure.on if on is None else on
        if place not in ("auto", "gpu", "sim"):
            raise ValueError(f"--on takes auto, gpu or sim, got {shown(place)}: choose one")
        return place == "sim" or (place == "auto" and not _present(load_gpu(self.gpu)))

    def _limits(self) -> Limits:
        from sim import load_gpu

        return load_gpu(self.gpu).limits

    def to_plan(
        self,
        *,
        on: str | None = None,
        output: Path | None = None,
        max_measurements: int | None = None,
        time_limit: str | None = None,
        objective: str | None = None,
    ) -> "Plan":
        """The studies to run; arguments override what the file says.

        Args:
            on: ``gpu``, ``sim`` or ``auto``.
            output: run folder; must be given where the file names none.
            max_measurements: per study.
            time_limit: of the whole sweep, e.g. ``30m``.
            objective: ``time`` or ``energy``.
        Raises:
            ValueError: an override is malformed, no run folder is named, or no kernel can run any
                of the problems.

        A simulated sweep over any family leaves out those without a cost model; one that is asked
        for by name stays in, and is refused when the sweep begins.
        """
        from sim import load_gpu
        from tuning import Plan, Strategy, StudyPlan
        from tuning.objective import Objective

        wanted = self.objective if objective is None else objective
        if wanted not in (known := [one.value for one in Objective]):
            raise ValueError(
                f"--objective takes {' or '.join(known)}, got {shown(wanted)}: choose one"
            )
        simulate = self._simulated(on)
        if output is None:
            if self.output is None:
                raise ValueError(
                    "no run folder: add a line such as `output: runs/mine` to the sweep file, "
                    "or pass --output"
                )
            output = Path(self.output)
        studies = self.studies()
        if not studies:
            reasons = "; ".join(str(one) for one in self.unserved()[:3])
            raise ValueError(f"no kernel can run any of the problems: {reasons}: add recipes")
        if left := self._unpriced(simulate):
            studies = [study for study in studies if study not in left]
            if not studies:
                raise ValueError(f"nothing can be simulated: {next(iter(left.values()))}")
        return Plan(
            studies=tuple(StudyPlan(problem=p, kernel=name) for p, name in studies),
            gpu=load_gpu(self.gpu),
            folder=output,
            strategy=Strategy(self.search.strategy),
            max_measurements=(
                self.search.max_measurements if max_measurements is None else max_measurements
            ),
            time_limit_s=parse_time_limit(
                self.search.time_limit if time_limit is None else time_limit
            ),
            seed=self.search.seed,
            simulate=simulate,
            cache=self.measure.cache,
            objective=Objective(wanted),
        )


def _present(gpu: "Gpu") -> bool:
    """Whether this machine has that GPU; neither torch nor CUDA is needed to tell."""
    from tuning.visible_gpu import visible_gpu

    name = visible_gpu()
    return name is not None and gpu.matches(name)


def load_sweepfile(path: str | Path) -> SweepFile:
    """Read and check a sweep file and everything that it names.

    Args:
        path: YAML; paths of models and of a GPU file in it are relative to its folder, the
            ``output`` folder is relative to the working directory.
    Raises:
        ValueError: one line with file, key path, rule, value and next step.
    """
    path = Path(path)
    data = load_yaml(path)
    try:
        return SweepFile.model_validate(data, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise ValueError(complaint(path, error, KINDS)) from error
