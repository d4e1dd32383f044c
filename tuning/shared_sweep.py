"""A sweep in a shared storage: what its studies say of themselves, and what a host may join."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.study import StudyDirection

from sim import parse_gpu
from tiles.kernels import Backend, ConfigTable
from tiles.kernels.closure import source_digest
from tuning.candidates import Candidates, describe
from tuning.family import family
from tuning.plan import Plan, StudyPlan
from tuning.records import Run
from tuning.store import read_run
from tuning.stored_plan import UNFIT, check_plan, difference, unfit
from tuning.visible_gpu import visible_gpu

if TYPE_CHECKING:
    from tuning.fleet_storage import FleetStorage

__all__ = [
    "begin_studies",
    "read_shared_run",
    "refusal",
    "shared_plans",
    "space_digest",
    "store_sources",
]

#: What a study's attributes are called: the sweep's name, its plan, the GPU file's text, the place
#: among the sweep's studies, and the digest of its legal configurations.
_SWEEP, _PLAN, _GPU, _PLACE, _SPACE = "sweep", "plan", "gpu_file", "place", "space_sha256"


def space_digest(table: ConfigTable) -> str:
    """SHA-256 of legal configurations: two programs with other rules search other spaces."""
    digest = hashlib.sha256()
    for name, column in table.columns.items():
        digest.update(f"{name}\0{column.dtype.str}\0".encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


def begin_studies(
    plan: Plan, found: Sequence[Candidates], storage: "FleetStorage", *, sources: bool = True
) -> None:
    """Create the sweep's studies, or accept those that hold the same plan, whatever its budget.

    Args:
        sources: whether the kernels' source must be the same, too; where it need not, a stored
            study keeps its own.

    Raises:
        ValueError: the name holds another sweep, or one of another version.
    """
    with storage.choosing(plan.shared_name):  # of two that begin at once the second joins
        stored = {s.study_name: s for s in storage.get_all_studies()}
        for candidates in found:
            study = stored.get(plan.study_name(candidates.plan))
            if study is not None and _PLAN in study.user_attrs:
                _check_same(plan, candidates, study.user_attrs, storage.shown, sources)
        for place, candidates in enumerate(found):
            name = plan.study_name(candidates.plan)
            if name in stored:
                study_id = stored[name]._study_id
            else:
                study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
            describe(plan, candidates, storage)
            shared = plan.to_dict()
            del shared["studies"]
            attributes = {
                _GPU: plan.gpu.text,
                _PLACE: place,
                _SPACE: space_digest(candidates.space.accepted),
                _PLAN: shared,
                _SWEEP: plan.shared_name,  # last: with it the study is the sweep's
            }
            before = {} if name not in stored else stored[name].user_attrs
            if not sources and _PLAN in before:
                shared["sources"] = before[_PLAN]["sources"]
            for key, value in attributes.items():
                if before.get(key) != value:
                    storage.set_study_user_attr(study_id, key, value)


def store_sources(plan: Plan, storage: "FleetStorage") -> None:
    """Say that every study is of the present source, once it was measured again."""
    for study, attributes in stored_attributes(storage, plan).items():
        shared = {**attributes[_PLAN], "sources": plan.to_dict()["sources"]}
        if shared != attributes[_PLAN]:
            study_id = storage.get_study_id_from_name(plan.study_name(study))
            storage.set_study_user_attr(study_id, _PLAN, shared)


def _check_same(
    plan: Plan, candidates: Candidates, attributes: Mapping[str, Any], shown: str, sources: bool
) -> None:
    name = plan.shared_name
    stored = {**attributes[_PLAN], "studies": []}
    check_plan(stored, f"study {name!r} of {shown}")
    # Each of its studies has the source of its own kernel; a later sweep may add problems.
    kernel = candidates.plan.kernel
    ours = {**plan.to_dict(), "studies": []}
    for one in (stored, ours):
        one["sources"] = one["sources"].get(kernel) if sources else None
    differs = difference(stored, ours)
    if not differs and attributes[_SPACE] != space_digest(candidates.space.accepted):
        differs = f"the space of {candidates.plan.problem} with {kernel}"
    if differs:
        raise ValueError(
            f"study {name!r} of {shown} holds another sweep ({differs} differs): "
            "choose another name, --study"
        )


def shared_plans(storage: "FleetStorage", name: str) -> list[Plan]:
    """The plans of a sweep, one for each GPU that it is for.

    Args:
        name: of the sweep, or ``NAME@GPU`` for one of its GPUs.

    Raises:
        ValueError: there is no such sweep, or it is another version's or damaged.
    """
    studies = [s.user_attrs for s in storage.get_all_studies() if _SWEEP in s.user_attrs]
    ours = [a for a in studies if a[_SWEEP] == name]
    if not ours and "@" in name:
        base, _, gpu = name.rpartition("@")
        ours = [a for a in studies if a[_SWEEP] == base and a.get("gpu") == gpu]
        name = base if ours else name
    if not ours:
        held = sorted({str(a[_SWEEP]) for a in studies})
        hint = f"it holds {', '.join(held[:8])}" if held else "it holds none"
        raise ValueError(f"{storage.shown} holds no study {name!r}: {hint}")
    plans = []
    for gpu in dict.fromkeys(str(a.get("gpu")) for a in ours):
        members = sorted(
            (a for a in ours if str(a.get("gpu")) == gpu), key=lambda a: int(a.get(_PLACE, 0))
        )
        where = f"study {name!r} of {storage.shown}"
        try:
            shared = dict(members[0][_PLAN])
            shared["studies"] = [{k: a[k] for k in ("problem", "kernel")} for a in members]
            shared["sources"] = {a["kernel"]: a[_PLAN]["sources"].get(a["kernel"]) for a in members}
            check_plan(shared, where)
            figures = parse_gpu(members[0][_GPU].encode(), f"the GPU file of {where}")
            plans.append(Plan.from_dict(shared, gpu=figures, folder=Path(name), shared_name=name))
        except UNFIT as error:
            raise ValueError(f"{where}: {unfit(error)}: sweep under another name") from error
    return plans


def stored_attributes(storage: "FleetStorage", plan: Plan) -> dict[StudyPlan, Mapping[str, Any]]:
    """What the storage says of each study of a plan."""
    by_name = {s.study_name: s.user_attrs for s in storage.get_all_studies()}
    return {study: by_name[plan.study_name(study)] for study in plan.studies}


def refusal(plan: Plan, study: StudyPlan, attributes: Mapping[str, Any]) -> str:
    """Why this host cannot help with a study, or "" when it can."""
    try:
        kernel = family(study.kernel)
    except ValueError as error:
        return str(error)
    if attributes[_PLAN]["sources"].get(study.kernel) != source_digest(kernel.template):
        return f"the source of {study.kernel} is not the one that is swept: install that version"
    if plan.simulate or kernel.backend is Backend.HOST:
        return ""
    device = visible_gpu()
    if device is None:
        return f"it is for {plan.gpu.name}, and this host shows no GPU"
    if not plan.gpu.matches(device):
        return f"it is for {plan.gpu.name}, and the GPU here is {device!r}"
    return ""


def same_space(candidates: Candidates, attributes: Mapping[str, Any]) -> bool:
    """True when this program finds the configurations legal that the sweep is about."""
    return bool(attributes[_SPACE] == space_digest(candidates.space.accepted))


def read_shared_run(storage: "FleetStorage", plan: Plan) -> Run:
    """What a sweep of a shared storage has done so far on the plan's GPU."""
    attributes = stored_attributes(storage, plan)
    record = plan.to_dict()
    # As swept, not as they are here.
    record["sources"] = {s.kernel: a[_PLAN]["sources"][s.kernel] for s, a in attributes.items()}

    def ours(found: Mapping[str, Any]) -> bool:
        return found.get(_SWEEP) == plan.shared_name and found["gpu"] == plan.gpu.name

    return read_run(plan.folder, record, plan.gpu, storage, ours)
