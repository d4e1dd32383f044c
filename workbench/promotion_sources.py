"""What competes in a promotion: the entries of run folders and of emitted packages."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiles.problems import Problem, parse_problem

if TYPE_CHECKING:
    from sim import Gpu
    from tuning.promotion.contest import Contender, Contest

__all__ = ["Source", "contests_of", "open_source"]

#: Of a new run: how many of the fastest may compete, and how near the fastest they must be.
NEAR, AT_MOST = 0.03, 11
_BY_ENERGY = "was searched for energy, and contests go by time: sweep with --objective time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A run folder or an emitted package."""

    path: Path
    gpu: "Gpu"
    cache: str  #: "cold" or "warm", as its times were taken
    seed: int
    #: By function and problem: contenders, best first.
    entries: "Mapping[tuple[str, str], tuple[Problem, list[Contender]]]"


def open_source(path: Path) -> Source:
    """Read a run folder, an emitted folder or its wheel.

    Raises:
        ValueError: neither, damaged, edited after it was emitted, or without an entry.
    """
    if (path / "plan.json").exists():
        return _run_source(path)
    if path.is_file() or (path / "EVIDENCE.json").exists():
        return _package_source(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: name a run folder, or a package that emit wrote")
    raise ValueError(f"{path} holds neither a sweep nor a package: name a run folder or a package")


def _run_source(path: Path) -> Source:
    import tuning
    from tuning.objective import Objective, objective_of
    from tuning.promotion.contest import Contender

    run = tuning.load_run(path)
    if objective_of(run.plan) is Objective.ENERGY:
        raise ValueError(f"{path} {_BY_ENERGY}")
    found: dict[tuple[str, str], tuple[Problem, list[Contender]]] = {}
    timed: dict[tuple[str, str], list[tuple[bool, float, Contender]]] = {}
    for study in run.studies:
        key = _key(study.kernel, study.problem)
        for trial in study.trials:
            time_us = trial.measurement.time_us
            if time_us is None or trial.stale:
                continue
            before = None if study.simulated else time_us
            one = Contender(kernel=study.kernel, config=trial.config, before_us=before)
            beside = trial.beside_turns(time_us)
            timed.setdefault(key, []).append((study.simulated, beside, one))
            found.setdefault(key, (study.problem, []))
    for key, told in timed.items():
        # A measured and a simulated time are never compared: measured ones come first, as where
        # a package is emitted, and alone.
        told.sort(key=lambda one: one[:2])
        simulated, fastest, _ = told[0]
        near = [c for s, t, c in told if s is simulated and t <= fastest * (1 + NEAR)]
        found[key][1].extend(near[:AT_MOST])
    if not found:
        raise ValueError(f"{path} has no correct configuration yet: sweep on, then promote")
    plan = run.plan
    return Source(
        path=path, gpu=run.gpu, cache=plan["cache"], seed=int(plan["seed"]), entries=found
    )


def _package_source(path: Path) -> Source:
    from sim import load_gpu
    from tuning.family import family
    from tuning.objective import Objective
    from tuning.promotion.contest import Contender
    from workbench.verification.hub_kernel import is_hub_kernel, open_hub_kernel
    from workbench.verification.package import open_package

    evidence = (open_hub_kernel if is_hub_kernel(path) else open_package)(path).evidence
    found: dict[tuple[str, str], tuple[Problem, list[Contender]]] = {}
    gpus = sorted({str(entry.get("gpu")) for entry in evidence["entries"]})
    if len(gpus) != 1:
        raise ValueError(f"{path} has entries for {', '.join(gpus) or 'no GPU'}: name a run folder")
    for entry in evidence["entries"]:
        if entry.get("objective") == Objective.ENERGY.value:
            raise ValueError(f"{path} {_BY_ENERGY}")
        try:
            problem = parse_problem(entry["problem"])
            config = family(entry["kernel"]).config_type.from_dict(entry["config"])
            measured = entry["measured"]
            before = None if measured is None else float(measured["time_us"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: the entry of {entry['problem']} with {entry['kernel']} is not one of "
                f"this version ({error}): emit the package again"
            ) from None
        one = Contender(kernel=entry["kernel"], config=config, before_us=before)
        found.setdefault(_key(entry["kernel"], problem), (problem, []))[1].append(one)
    return Source(path=path, gpu=load_gpu(gpus[0]), cache="", seed=0, entries=found)


def _key(kernel: str, problem: Problem) -> tuple[str, str]:
    """Families of one function compete, those of none with themselves."""
    from workbench.emission.functions import function_of

    function = function_of(kernel, problem)
    return (kernel if function is None else function.name), str(problem)


def contests_of(new: Source, old: Source, *, common: bool) -> "list[Contest]":
    """Every problem with its old entry and those that may replace it.

    Args:
        common: also where one of them lacks a problem that the other has.
    Raises:
        ValueError: they are for different GPUs, were timed differently, or have other problems.
    """
    if new.gpu.name != old.gpu.name:
        raise ValueError(
            f"{new.path} is for {new.gpu.name}, {old.path} for {old.gpu.name}: entries of one GPU "
            "compete"
        )
    if new.cache and old.cache and new.cache != old.cache:
        raise ValueError(
            f"{new.path} was timed {new.cache}, {old.path} {old.cache}: sweep again with one "
            "measure: cache"
        )
    return list(_contests(new, old, common))


def _contests(new: Source, old: Source, common: bool) -> "Iterator[Contest]":
    from tuning.promotion.contest import Contest

    lacking = [
        (source, other, missing)
        for source, other in ((new, old), (old, new))
        if (missing := [key for key in other.entries if key not in source.entries])
    ]
    if lacking and not common:
        source, other, missing = lacking[0]
        raise ValueError(
            f"{source.path} lacks {len(missing)} of the {len(other.entries)} problems of "
            f"{other.path} ({_said(missing)}): sweep them too, or add --common, which keeps old "
            "entries without a rival and takes in right ones that are new"
        )
    for key in dict.fromkeys((*old.entries, *new.entries)):
        problem, holders = old.entries.get(key, (None, []))
        of_new, rivals = new.entries.get(key, (problem, []))
        found = problem if problem is not None else of_new
        assert found is not None
        held = holders[0] if holders else None
        fresh = [
            one
            for one in rivals
            if held is None or (one.kernel, one.config) != (held.kernel, held.config)
        ]
        # Where the new winner is the old entry, what comes behind it need not compete.
        if held is not None and rivals and rivals[0] not in fresh:
            fresh = []
        yield Contest(problem=found, old=held, new=tuple(fresh))


def _said(keys: Sequence[tuple[str, str]]) -> str:
    return ", ".join(problem for _, problem in keys[:2]) + (", ..." if len(keys) > 2 else "")
