"""What a sweep says in the terms of tuned files: entries with their times at an M.

A configuration of ours is *eligible* when everything that it asks of the kernel can be said in an
entry and means the same there: a plain program a tile, loads by pointers, one scale a K-step.
Everything else is left out with its reason, study by study.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tiles.kernels.gemm import GemmConfig
from tiles.kernels.grouped_gemm import GroupedGemmConfig
from tiles.problems import Gemm, GroupedGemm, RowOrder
from workbench.deploy.coding import recipe_coding
from workbench.deploy.families import ConfigFamily
from workbench.deploy.resources import device_of
from workbench.deploy.tile_rules import scale_obstacle
from workbench.deploy.tuned import Entry, ProductKind, TunedName

if TYPE_CHECKING:
    from tuning import Run, StudyRecord, TrialRecord

__all__ = [
    "LeftOut",
    "MeasuredProduct",
    "comparable_us",
    "entry_of",
    "measured_products",
    "time_us",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A study that no file speaks of."""

    study: str  #: its problem and family
    reason: str
    step: str = "sweep what it takes"  #: what to do where nothing else is left

    def __str__(self) -> str:
        return f"{self.study}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredProduct:
    """A study in the terms of a file's row."""

    study: "StudyRecord"
    name: TunedName
    m: int  #: tokens, which rows are looked up by
    eligible: tuple[tuple[Entry, "TrialRecord"], ...]  #: the fastest of each entry, fastest first
    fastest: "TrialRecord"  #: of the study, eligible or not
    refused: dict[str, int]  #: configurations that cannot be said, by reason
    triton: str | None  #: version that it was measured with

    @property
    def best_us(self) -> float:
        """Time of the fastest eligible configuration, by :func:`comparable_us`."""
        return comparable_us(self.eligible[0][1])

    @property
    def loss(self) -> float:
        """How much slower the fastest eligible configuration is than the fastest of all."""
        return self.best_us / comparable_us(self.fastest) - 1


def time_us(trial: "TrialRecord") -> float:
    """Of a correct trial."""
    found = trial.measurement.time_us
    assert found is not None
    return found


def comparable_us(trial: "TrialRecord") -> float:
    """The same, as it can be set against times that others took in turns."""
    return trial.beside_turns(time_us(trial))


def measured_products(
    run: "Run", family: ConfigFamily, device: str | None = None
) -> tuple[list[MeasuredProduct], list[LeftOut]]:
    """The studies of a run that files of a family can speak of, and why they cannot of others.

    Args:
        device: as the driver names it; by default what the environment of each study says.
    """
    kept: list[MeasuredProduct] = []
    left: list[LeftOut] = []
    choices = _choices(run.studies)
    for study in run.studies:
        try:
            kept.append(_product(study, run, family, device, choices))
        except _Unfit as unfit:
            left.append(LeftOut(study=f"{study.problem} {study.kernel}", reason=str(unfit)))
    return _once_each(kept, left), left


class _Unfit(ValueError):
    """Why a study is left out."""


def _product(
    study: "StudyRecord",
    run: "Run",
    family: ConfigFamily,
    device: str | None,
    choices: dict[tuple[int, int, int, str], int],
) -> MeasuredProduct:
    problem = study.problem
    if family.kind is ProductKind.LINEAR:
        name, m = _linear(study, family)
    else:
        name, m = _experts(study, family, choices)
    found = device or (None if study.environment is None else study.environment.gpu)
    name = replace(name, device=family.device(found or device_of(run.gpu)))
    if (reason := family.obstacle(name)) is not None:
        raise _Unfit(reason)
    best = study.best
    if best is None:
        raise _Unfit("nothing correct was measured")
    refused: Counter[str] = Counter()
    fastest: dict[Entry, TrialRecord] = {}
    trials = [t for t in study.trials if t.measurement.time_us is not None and not t.stale]
    for trial in sorted(trials, key=comparable_us):
        entry, why = entry_of(trial, family, name)
        if entry is None:
            refused[why] += 1
        else:
            fastest.setdefault(entry, trial)
    if not fastest:
        reasons = ", ".join(f"{count} {why}" for why, count in refused.most_common())
        raise _Unfit(f"none of its {len(trials)} correct configurations can be said: {reasons}")
    version = None if study.environment is None else study.environment.versions.get("triton")
    assert isinstance(problem, Gemm | GroupedGemm)
    return MeasuredProduct(
        study=study,
        name=name,
        m=m,
        eligible=tuple(fastest.items()),
        fastest=best,
        refused=dict(refused),
        triton=version,
    )


def _linear(study: "StudyRecord", family: ConfigFamily) -> tuple[TunedName, int]:
    problem = study.problem
    if study.kernel != "triton_gemm" or not isinstance(problem, Gemm):
        raise _Unfit(
            f"{family.engine}'s kernel has the parameters of triton_gemm, not of {study.kernel}"
        )
    coding = recipe_coding(problem.recipe, rows=(1, 128))
    if coding is None or coding.block_shape is None:
        raise _Unfit(
            f"{family.name} holds FP8 and INT8 with weights in blocks of scales, not "
            f"{problem.recipe.name}"
        )
    name = TunedName(
        kind=ProductKind.LINEAR,
        n=problem.n,
        k=problem.k,
        experts=None,
        device="unknown",
        label=coding.label,
        block_shape=coding.block_shape,
    )
    return name, problem.m


def _experts(
    study: "StudyRecord", family: ConfigFamily, choices: dict[tuple[int, int, int, str], int]
) -> tuple[TunedName, int]:
    problem = study.problem
    if study.kernel != "triton_grouped_gemm" or not isinstance(problem, GroupedGemm):
        raise _Unfit(
            f"{family.engine}'s kernel has the parameters of triton_grouped_gemm, not of "
            f"{study.kernel}"
        )
    if problem.layout.order is not RowOrder.GATHERED:
        raise _Unfit(f"{family.engine} sorts token ids: measure layout gathered, not this one")
    coding = recipe_coding(problem.recipe, rows=(1,))
    if coding is None:
        raise _Unfit(f"no label of {family.name} means {problem.recipe.name}")
    # A second product reads one row a choice; its first one says how many choices a token has.
    first = choices.get((problem.experts, 2 * problem.k, problem.n, problem.recipe.name))
    down = problem.top_k == 1 and first is not None
    if not down and problem.n % 2:
        raise _Unfit(f"N = {problem.n}: the first product holds gate and up, an even N")
    tokens = problem.m // ((first or 1) if down else problem.top_k)
    if down and problem.m % (first or 1):
        raise _Unfit(f"M = {problem.m} is no multiple of the {first} choices of a token")
    name = TunedName(
        kind=ProductKind.MOE,
        n=problem.k if down else problem.n // 2,
        k=None,
        experts=problem.experts,
        device="unknown",
        label=coding.label,
        block_shape=coding.block_shape,
        per_channel=coding.per_channel and family.per_channel,
        down=down,
    )
    return name, tokens


def _choices(studies: Sequence["StudyRecord"]) -> dict[tuple[int, int, int, str], int]:
    """Experts that a token goes to, by (E, N, K, recipe) of every first product."""
    return {
        (p.experts, p.n, p.k, p.recipe.name): p.top_k
        for p in (study.problem for study in studies)
        if isinstance(p, GroupedGemm) and p.layout.order is RowOrder.GATHERED and p.top_k > 1
    }


def entry_of(
    trial: "TrialRecord", family: ConfigFamily, name: TunedName
) -> tuple[Entry | None, str]:
    """A configuration as an entry, or why it is none."""
    config = trial.config
    assert isinstance(config, GemmConfig | GroupedGemmConfig)
    if config.tma:
        return None, "load by tensor-memory-access descriptors"
    if isinstance(config, GemmConfig):
        for said, why in (
            (config.split_k > 1 or config.stream_k, "share K among programs"),
            (config.persistent, "are persistent"),
            (config.specialize, "specialise warps"),
            (config.overlap, "overlap promotion"),
        ):
            if said:
                return None, why
    entry = Entry(
        block_m=config.block_m,
        block_n=config.block_n,
        block_k=config.block_k,
        group_m=config.group_m,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    if (found := scale_obstacle(family, name, entry)) is not None:
        rule = found[0]
        return None, "cross scale blocks" if rule == "tile.scale-k" else "hold parts of blocks"
    return entry, ""


def _once_each(kept: list[MeasuredProduct], left: list[LeftOut]) -> list[MeasuredProduct]:
    """Of several studies of one row the one whose formats are the engine's own."""
    best: dict[tuple[TunedName, int], MeasuredProduct] = {}
    for one in sorted(kept, key=_distance):
        key = (one.name, one.m)
        if key not in best:
            best[key] = one
            continue
        left.append(
            LeftOut(
                study=f"{one.study.problem} {one.study.kernel}",
                reason=f"a file has one row for it, and {best[key].study.problem} is nearer to "
                "what is served",
            )
        )
    return [one for one in kept if best[one.name, one.m] is one]


def _distance(one: MeasuredProduct) -> tuple[bool, bool, float]:
    """Smaller is nearer: activations scaled a row, bf16 out, then the faster one."""
    problem = one.study.problem
    assert isinstance(problem, Gemm | GroupedGemm)
    scaling = problem.recipe.activation.scaling
    rows = 1 if scaling is None else scaling.rows
    return (rows != 1, problem.out != "bf16", one.best_us)
