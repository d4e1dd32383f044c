"""What of a run ships with a target: the winners that it can hold, and all else with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiles.kernels.closure import source_digest
from tuning.objective import Objective
from workbench.emission.functions import EMITTED
from workbench.emission.kept_rows import KeptRows, keep_rows
from workbench.emission.not_emitted import NotEmitted, not_emitted
from workbench.emission.winners import TunedEntry, fastest, obstacle

if TYPE_CHECKING:
    from sim import Gpu
    from tuning import Run, StudyRecord

__all__ = ["Obstacle", "Selection", "check_sources", "select"]

#: Why a target cannot hold a study's winner; ``None`` when it can.
Obstacle = Callable[["StudyRecord", "Gpu"], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The studies of a run, divided."""

    entries: tuple[TunedEntry, ...]  #: what ships
    left: tuple[NotEmitted, ...]  #: what does not
    rows: tuple[KeptRows, ...]  #: how the M keys were chosen; empty: every tuned M is one


def select(
    run: "Run", *, obstacle: Obstacle = obstacle, rows_loss: float | None = None
) -> Selection:
    """Choose what ships of a run.

    Args:
        run: a finished sweep, or the part of one that has happened.
        obstacle: of the target.
        rows_loss: keep as few M as lookup needs to lose at most this much (0.02: 2 %); ``None``
            keeps every tuned M.
    Raises:
        ValueError: nothing of the run can ship, a source has changed, or no M keep the loss.
    """
    found = _winners(run, obstacle)
    if rows_loss is not None and any(one.study.objective is Objective.ENERGY for one in found):
        raise ValueError(
            "--rows-loss weighs times, and this run was searched for energy: leave it out, or "
            "sweep with --objective time"
        )
    kept, slower = fastest(found)
    rows: list[KeptRows] = []
    dropped: list[NotEmitted] = []
    if rows_loss is not None:
        kept, dropped, rows = keep_rows(found, kept, rows_loss)
        slower = []
    left = not_emitted(run, slower, obstacle)
    return Selection(entries=tuple(kept), left=(*dropped, *left), rows=tuple(rows))


def _winners(run: "Run", obstacle: Obstacle) -> list[TunedEntry]:
    """The winners of the studies that the target can hold."""
    entries = [
        TunedEntry(study=study, best=study.best, gpu=run.gpu)
        for study in run.studies
        if study.best is not None
    ]
    if not entries:
        raise ValueError(
            "no study of this run has a correct configuration yet: sweep on, then emit"
        )
    emitted = [entry for entry in entries if obstacle(entry.study, run.gpu) is None]
    if not emitted:
        name = entries[0].study.kernel
        if name in EMITTED:
            raise ValueError(
                f"{entries[0].problem} with {name} cannot be emitted: "
                f"{obstacle(entries[0].study, run.gpu)}"
            )
        raise ValueError(
            f"kernel {name!r} cannot be emitted, only {', '.join(EMITTED)}: "
            "sweep one of these too, then emit"
        )
    return emitted


def check_sources(run: "Run", entries: Sequence[TunedEntry]) -> None:
    """What ships must be what was measured.

    Raises:
        ValueError: a template has changed since.
    """
    measured = run.plan.get("sources", {})
    for entry in entries:
        name = entry.study.kernel
        if measured.get(name) != source_digest(entry.kernel.template):
            raise ValueError(
                f"{run.folder}: the source of {name} is not the one that was swept: sweep again "
                "into another folder, then emit"
            )
