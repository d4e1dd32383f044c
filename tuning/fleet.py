"""Sweeps that several hosts share: one begins them, any number of workers help."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tuning.candidates import Pricing
from tuning.fleet_storage import FleetStorage
from tuning.interrupts import Interrupts
from tuning.limits import JobLimits
from tuning.plan import Plan
from tuning.records import Run
from tuning.search import Progress
from tuning.shared_sweep import (
    begin_studies,
    read_shared_run,
    refusal,
    same_space,
    shared_plans,
    store_sources,
    stored_attributes,
)
from tuning.store import quiet_optuna
from tuning.stored_plan import read_gpu, read_plan
from tuning.sweep import Again, enumerate_studies, run, search_studies

__all__ = ["load_shared", "run_shared", "work", "work_in_folder"]


def run_shared(
    plan: Plan,
    url: str,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
    retry_failures: bool = False,
    again: Again = Again.REFUSE,
    storage: FleetStorage | None = None,
) -> Run:
    """Begin a sweep in a shared storage, or join it, and search until nothing is left.

    Args:
        plan: ``plan.shared_name`` is the sweep's name; no folder is written.
        url: of the PostgreSQL database; its secrets are neither shown nor stored.
        storage: an open one; ``url`` is not looked at then.
        progress, price, limits, precompile, retry_failures, again: see :func:`tuning.run`.

    Raises:
        ValueError: as :func:`tuning.run`, and what is wrong with the storage.
    """
    if not plan.shared_name:
        raise ValueError("a sweep in a shared storage needs a name: --study NAME")
    found = enumerate_studies(plan, price)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(quiet_optuna())
        storage = stack.enter_context(storage or FleetStorage(url))
        revalidating = again is Again.REVALIDATE
        search_studies(
            plan,
            found,
            storage,
            progress,
            lambda: begin_studies(plan, found, storage, sources=not revalidating),
            interrupts,
            limits=limits,
            precompile=precompile,
            retry_failures=retry_failures,
            again=again,
        )
        if revalidating:  # all of it is of the present source now
            store_sources(plan, storage)
        return read_shared_run(storage, plan)


def work(
    name: str,
    url: str,
    progress: Callable[[Progress], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
    *,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
    retry_failures: bool = False,
    again: Again = Again.REFUSE,
    storage: FleetStorage | None = None,
) -> list[Run]:
    """Help with a sweep that another host began, until nothing is left of what can run here.

    Args:
        note: told which studies were left to others, and why.

    Returns:
        The sweep as it stands, one run for each GPU that was worked on.

    Raises:
        ValueError: no such sweep, none of its studies can run here, or what is wrong with the
            storage.
    """
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(quiet_optuna())
        storage = stack.enter_context(storage or FleetStorage(url))
        done, left, told = [], [], 0
        for plan in shared_plans(storage, name):
            attributes = stored_attributes(storage, plan)
            able = []
            for study in plan.studies:
                reason = refusal(plan, study, attributes[study])
                if reason:
                    left.append(f"{study.problem} with {study.kernel}: {reason}")
                else:
                    able.append(study)
            found = []
            for candidates in (
                enumerate_studies(replace(plan, studies=tuple(able)), price) if able else []
            ):
                if same_space(candidates, attributes[candidates.plan]):
                    found.append(candidates)
                else:
                    left.append(
                        f"{candidates.plan.problem} with {candidates.plan.kernel}: this version "
                        "finds other configurations legal: install the one that began the sweep"
                    )
            if not found:
                continue
            for one in left[told:]:
                note(f"left to others: {one}")
            told = len(left)
            search_studies(
                replace(plan, studies=tuple(c.plan for c in found)),
                found,
                storage,
                progress,
                lambda: None,
                interrupts,
                limits=limits,
                precompile=precompile,
                retry_failures=retry_failures,
                again=again,
            )
            done.append(read_shared_run(storage, plan))
        if not done:
            more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
            raise ValueError(f"no study of {name!r} can run here: {left[0]}{more}")
        return done


def work_in_folder(
    folder: Path,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
    retry_failures: bool = False,
    again: Again = Again.REFUSE,
) -> Run:
    """Help with a sweep that another process of this host began in a run folder.

    Raises:
        ValueError: as :func:`tuning.run`; or no sweep began there.
    """
    stored = read_plan(folder)
    plan = Plan.from_dict(stored, gpu=read_gpu(folder, stored), folder=folder)
    return run(
        plan,
        progress,
        price=price,
        limits=limits,
        precompile=precompile,
        retry_failures=retry_failures,
        again=again,
    )


def load_shared(name: str, url: str) -> Run:
    """Read a sweep of a shared storage; changes nothing, also while workers go on.

    Args:
        name: of the sweep; ``NAME@GPU`` when it is for several GPUs.

    Raises:
        ValueError: no such sweep, several GPUs, or what is wrong with the storage.
    """
    with quiet_optuna(), FleetStorage(url, read_only=True) as storage:
        plans = shared_plans(storage, name)
        if len(plans) > 1:
            choices = ", ".join(f"{name}@{plan.gpu.name}" for plan in plans)
            raise ValueError(f"study {name!r} is for several GPUs: name one of {choices}")
        return read_shared_run(storage, plans[0])
