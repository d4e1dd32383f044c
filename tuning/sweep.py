"""The sweep: enumerate, price, seed, search, measure, record."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import Enum
from typing import TYPE_CHECKING

import sim
from tuning.bench import Bench
from tuning.candidates import Candidates, Pricing, pricing
from tuning.family import family
from tuning.interrupts import Interrupts
from tuning.journal_file import JOURNAL
from tuning.known_failures import KnownFailures
from tuning.limits import JobLimits
from tuning.plan import Plan, StudyPlan
from tuning.records import Run
from tuning.rejections import write_rejections
from tuning.revalidate import refuse_stale, revalidate
from tuning.run_storage import RunStorage
from tuning.search import Progress, Search, search_all
from tuning.store import check_folder, quiet_optuna, read_run, store_plan, whole
from tuning.study_order import study_order

if TYPE_CHECKING:
    from tuning.fleet_storage import FleetStorage

__all__ = ["Again", "enumerate_studies", "run", "search_studies"]


class Again(Enum):
    """What happens to stored results when source, device, driver or versions have changed."""

    REFUSE = "refuse"  #: the sweep is refused, with what changed
    ALLOW = "allow"  #: old and new results stand together
    REVALIDATE = "revalidate"  #: winners and runners-up are measured again, nothing else is


def run(
    plan: Plan,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
    retry_failures: bool = False,
    again: Again = Again.REFUSE,
) -> Run:
    """Run a sweep, go on with one that was interrupted, or help one that other processes run.

    Finished configurations are never measured again.  A KeyboardInterrupt, wherever it strikes,
    ends the worker and leaves a folder that the next call continues.

    Args:
        plan: what to search; ``plan.folder`` is made when it is missing.
        progress: called after every trial and every study, in this thread.
        price: the cost model; :func:`tuning.candidates.pricing` when None.
        limits: time limits of a measuring job's stages.
        precompile: processes that compile ahead; None = by CPUs and memory, 0 = none.
        retry_failures: launch also what failed before with the same source and versions.
        again: what happens to stored results that were measured under other conditions.

    Returns:
        The whole run, earlier sessions and other processes' trials included.

    Raises:
        ValueError: the folder holds another sweep, is damaged or cannot be written; a kernel
            cannot serve its problem; there is no such device, or it is another GPU; the
            measuring process does not start; stored results are stale.
    """
    revalidating = again is Again.REVALIDATE
    check_folder(plan, sources=not revalidating)
    found = enumerate_studies(plan, price)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(quiet_optuna())
        storage = stack.enter_context(RunStorage(plan.folder))
        with whole(plan.folder / JOURNAL):  # nothing is measured on a bad record
            read_run(plan.folder, plan.to_dict(), plan.gpu, storage)

        def begin() -> None:
            # Once nothing refuses it any more: a stored plan binds the folder to this sweep.
            with storage.choosing(""):
                # Another process may have begun meanwhile.
                check_folder(plan, sources=not revalidating)
                # What was not measured again is of the old source until all of it is.
                if not revalidating:
                    store_plan(plan)
                write_rejections(plan, ((c.plan, c.space) for c in found))

        search_studies(
            plan,
            found,
            storage,
            progress,
            begin,
            interrupts,
            limits=limits,
            precompile=precompile,
            retry_failures=retry_failures,
            again=again,
        )
        store_plan(plan)
        return read_run(plan.folder, plan.to_dict(), plan.gpu, storage)


def search_studies(
    plan: Plan,
    found: Sequence[Candidates],
    storage: "RunStorage | FleetStorage",
    progress: Callable[[Progress], None],
    begin: Callable[[], None],
    interrupts: Interrupts,
    *,
    limits: JobLimits | None,
    precompile: int | None,
    retry_failures: bool,
    again: Again,
) -> None:
    """Search a plan's studies on an open storage.

    Args:
        begin: called once the bench stands, before anything is searched.

    Raises:
        ValueError: there is no such device, or it is another GPU; the measuring process does not
            start; the storage does not answer any more.
    """
    with ExitStack() as stack:
        bench = failures = None
        order = study_order(plan, found, storage)
        if not plan.simulate:
            bench = stack.enter_context(Bench(plan, limits or JobLimits(), precompile, interrupts))
            bench.start(found)
            # In the order of measuring: a compiler stays with a problem as the worker does.
            for study in (found[place] for place in order):
                bench.announce(study, study.configs(study.seeds(plan)), False)
            failures = KnownFailures(plan, trust=not retry_failures)
            if again is Again.REFUSE:
                refuse_stale(plan, found, storage, bench)
        begin()
        if again is Again.REVALIDATE:
            if bench is None:
                raise ValueError("a simulated sweep has nothing to revalidate: leave it out")
            revalidate(plan, found, storage, bench, progress, interrupts)
            return
        searches = [
            Search(
                plan,
                found[index],
                index,
                storage,
                bench=bench,
                failures=failures,
                progress=progress,
                interrupts=interrupts,
            )
            for index in order
        ]
        search_all(searches, plan.time_limit_s, storage.idle_s, interrupts)


def enumerate_studies(plan: Plan, price: Pricing | None = None) -> list[Candidates]:
    """The legal configurations of every study with their predictions.

    Raises:
        ValueError: a kernel cannot serve its problem, or a simulated sweep has no times for it.
    """
    return [_enumerate(plan, study, price) for study in plan.studies]


def _enumerate(plan: Plan, study: StudyPlan, price: Pricing | None) -> Candidates:
    kernel = family(study.kernel)
    limits = plan.gpu.limits
    refusal = kernel.refusal(study.problem, limits)
    if refusal is not None:
        raise ValueError(f"{study.kernel} cannot serve {study.problem}: {refusal}")
    if price is None:
        # Prices of a family that nothing prices would be all that a simulated sweep finds.
        price = pricing(study.problem, kernel, plan.calibration)
        if plan.simulate and price is sim.roofline:
            price = sim.price  # which says why it has no times
    space = kernel.legal_space(study.problem, limits)
    table = space.accepted
    return Candidates(
        plan=study,
        kernel=kernel,
        space=space,
        priced=price(study.problem, kernel, table, plan.gpu) if len(table) else None,
        path=kernel.path(study.problem, limits).value,
        price=price,
    )
