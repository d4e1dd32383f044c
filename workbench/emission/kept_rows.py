"""The M that a package's files keep: as few as lookup needs to lose at most a stated share.

An entry stays one that a study found correct at its own M.  What it takes at another M was
measured there, or is the model's, scaled to what was measured: losses are told apart by that.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuning.row_keys import KeyChoice, Lookup, choose_keys
from tuning.row_times import RowTimes, row_times
from workbench.emission.not_emitted import NotEmitted
from workbench.emission.winners import TunedEntry

__all__ = ["KeptRows", "Loss", "keep_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The worst that lookup costs over some M."""

    loss: float  #: time over the best known time of the same M, less 1
    m: int  #: where that is
    rows: int  #: how many M were compared


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRows:
    """How the M keys of one choice of formats and extents were chosen."""

    kernels: tuple[str, ...]  #: families whose entries compete
    formats: tuple[str, ...]
    extents: tuple[int, ...]
    gpu: str
    lookup: str  #: by which distance readers take the nearest key
    allowed_loss: float
    first_m: int  #: the range that was looked at
    last_m: int
    tuned: tuple[int, ...]  #: M that studies searched
    kept: tuple[int, ...]  #: of these, those that have an entry
    #: Over M where the entry that serves them and its rivals were measured.
    measured: Loss | None
    #: Over M where the model stands in, scaled to what was measured at others.
    interpolated: Loss | None
    #: Over all M of simulated studies: no time was measured.
    predicted: Loss | None

    def __str__(self) -> str:
        name = f"{' '.join(self.formats)} {'x'.join(map(str, self.extents))}"
        losses = [
            f"{one.loss:.1%} at M {one.m} ({how})"
            for how in ("measured", "interpolated", "predicted")
            if (one := getattr(self, how)) is not None
        ]
        return (
            f"{name}: {len(self.kept)} of {len(self.tuned)} tuned M kept for M {self.first_m} to "
            f"{self.last_m}, worst loss {', '.join(losses)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return asdict(self)


def keep_rows(
    found: Sequence[TunedEntry],
    fastest: Sequence[TunedEntry],
    loss: float,
    lookup: Lookup = Lookup.LOG,
) -> tuple[list[TunedEntry], list[NotEmitted], list[KeptRows]]:
    """Thin the tuned M of each choice of formats and extents.

    Args:
        found: the winner of every study that a target can hold.
        fastest: of these the fastest of each problem; they ship where several extents are free.
        loss: 0.02 allows 2 %.
        lookup: the readers' rule.
    Returns:
        What ships; what does not, with its reason; and how it was chosen.
    Raises:
        ValueError: what was tuned cannot stay within the loss.
    """
    groups: dict[tuple[object, ...], list[TunedEntry]] = {}
    kept = [entry for entry in fastest if not isinstance(entry.m, int)]
    for entry in found:
        if isinstance(entry.m, int):
            key = (entry.function.name, entry.formats, entry.extents, entry.study.gpu)
            groups.setdefault(key, []).append(entry)
    dropped: list[NotEmitted] = []
    reports: list[KeptRows] = []
    for group in groups.values():
        # A measured and a simulated time are never compared.
        simulated = all(entry.simulated for entry in group)
        rivals = [entry for entry in group if entry.simulated == simulated]
        times = row_times([entry.study for entry in rivals], group[0].gpu)
        choice = _choose(times, loss, lookup, group[0])
        chosen = [_entry(key.m, times.candidates[key.config], rivals) for key in choice.keys]
        kept += chosen
        dropped += _dropped(group, chosen, choice, loss)
        reports.append(_report(group, times, choice, loss))
    return kept, dropped, reports


def _choose(times: RowTimes, loss: float, lookup: Lookup, first: TunedEntry) -> KeyChoice:
    try:
        return choose_keys(
            times.rows, times.times_us, loss=loss, lookup=lookup, allowed=times.allowed
        )
    except ValueError as error:
        extents = "x".join(map(str, first.extents))
        raise ValueError(f"{' '.join(first.formats)} {extents}: {error}") from error


def _entry(m: int, candidate: tuple[str, object], rivals: Sequence[TunedEntry]) -> TunedEntry:
    """The trial of a candidate at an M as an entry."""
    name, config = candidate
    entry = next(e for e in rivals if e.m == m and e.study.kernel == name)
    trials = [
        trial
        for trial in entry.study.trials
        if trial.config == config and trial.measurement.time_us is not None and not trial.stale
    ]
    best = min(trials, key=lambda trial: trial.measurement.time_us or 0.0)
    return TunedEntry(study=entry.study, best=best, gpu=entry.gpu)


def _dropped(
    group: Sequence[TunedEntry], chosen: Sequence[TunedEntry], choice: KeyChoice, loss: float
) -> list[NotEmitted]:
    shipped = {(entry.m, entry.study.kernel) for entry in chosen}
    found = []
    for entry in group:
        if (entry.m, entry.study.kernel) in shipped:
            continue
        key = next(
            k for k in choice.keys if isinstance(entry.m, int) and k.first <= entry.m <= k.last
        )
        by = next(e.study.kernel for e in chosen if e.m == key.m)
        found.append(
            NotEmitted(
                kernel=entry.study.kernel,
                problem=str(entry.problem),
                gpu=entry.study.gpu,
                reason=f"takes the entry of {by} for M {key.m}, which loses at most {loss:.1%}",
                has_winner=True,
            )
        )
    return found


def _report(
    group: Sequence[TunedEntry], times: RowTimes, choice: KeyChoice, loss: float
) -> KeptRows:
    rows = np.array(times.rows)
    serving = np.array(
        [next(k.config for k in choice.keys if k.first <= m <= k.last) for m in rows]
    )
    cells = times.times_us
    columns = np.arange(len(rows))
    losses = cells[serving, columns] / cells.min(axis=0) - 1.0
    # The winner of a tuned M was tried there; a loss is measured where the serving entry was too.
    told = np.isin(rows, times.tuned) & np.isfinite(times.told_us[serving, columns])
    return KeptRows(
        kernels=tuple(sorted({entry.study.kernel for entry in group})),
        formats=group[0].formats,
        extents=group[0].extents,
        gpu=group[0].study.gpu,
        lookup=choice.lookup.value,
        allowed_loss=loss,
        first_m=times.rows[0],
        last_m=times.rows[-1],
        tuned=times.tuned,
        kept=tuple(key.m for key in choice.keys),
        measured=None if times.simulated else _worst(rows[told], losses[told]),
        interpolated=None if times.simulated else _worst(rows[~told], losses[~told]),
        predicted=_worst(rows, losses) if times.simulated else None,
    )


def _worst(rows: NDArray[np.int64], losses: NDArray[np.float64]) -> Loss | None:
    if not len(rows):
        return None
    at = int(losses.argmax())
    return Loss(loss=float(losses[at]), m=int(rows[at]), rows=len(rows))
