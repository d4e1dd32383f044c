"""The M keys of a package's files: as few as lookup needs to lose at most a stated share.

Keys are chosen, too: any M of the range may be one, so that the boundaries between entries lie
where the best configuration changes.  An entry is one that a study found correct at its own M, and
calls of that M take it.  What it takes at another M was measured there, or is the model's, scaled
to what was measured: losses are told apart by that.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuning.row_keys import KeyChoice, Lookup, RowKey, choose_keys, served_by
from tuning.row_times import RowTimes, row_times
from workbench.emission.not_emitted import NotEmitted
from workbench.emission.winners import TunedEntry

__all__ = ["KeptRows", "Loss", "Losses", "keep_rows", "losses_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The worst that lookup costs over some M."""

    loss: float  #: time over the best known time of the same M, less 1
    m: int  #: where that is
    rows: int  #: how many M were compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """The worst of each kind of times; kinds never mix."""

    #: Over M where the entry that serves them and its rivals were measured.
    measured: Loss | None
    #: Over M where the model stands in, scaled to what was measured at others.
    interpolated: Loss | None
    #: Over all M of simulated studies: no time was measured.
    predicted: Loss | None

    def __str__(self) -> str:
        return ", ".join(
            f"{one.loss:.1%} at M {one.m} ({how})"
            for how in ("measured", "interpolated", "predicted")
            if (one := getattr(self, how)) is not None
        )


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
    rows: int  #: how many M of it were
    tuned: tuple[int, ...]  #: M that studies searched
    keys: tuple[int, ...]  #: M that the entries stand under
    #: Over M where the entry that serves them and its rivals were measured.
    measured: Loss | None
    #: Over M where the model stands in, scaled to what was measured at others.
    interpolated: Loss | None
    #: Over all M of simulated studies: no time was measured.
    predicted: Loss | None

    def __str__(self) -> str:
        name = f"{' '.join(self.formats)} {'x'.join(map(str, self.extents))}"
        losses = Losses(
            measured=self.measured, interpolated=self.interpolated, predicted=self.predicted
        )
        return (
            f"{name}: {len(self.keys)} entries for {len(self.tuned)} tuned M, {self.first_m} to "
            f"{self.last_m} ({self.rows} looked at), worst loss {losses}"
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
        chosen = [_entry(key, times, rivals) for key in choice.keys]
        kept += chosen
        dropped += _dropped(group, chosen, choice, loss)
        reports.append(_report(group, times, choice, loss))
    return kept, dropped, reports


def _choose(times: RowTimes, loss: float, lookup: Lookup, first: TunedEntry) -> KeyChoice:
    try:
        return choose_keys(
            times.rows, times.times_us, loss=loss, lookup=lookup, anchors=times.correct
        )
    except ValueError as error:
        extents = "x".join(map(str, first.extents))
        raise ValueError(f"{' '.join(first.formats)} {extents}: {error}") from error


def _entry(key: RowKey, times: RowTimes, rivals: Sequence[TunedEntry]) -> TunedEntry:
    """A trial of the key's configuration that was correct at an M that the key serves."""
    name, config = times.candidates[key.config]
    own = [e for e in rivals if e.study.kernel == name and isinstance(e.m, int)]
    found = [
        TunedEntry(study=entry.study, best=trial, gpu=entry.gpu, key=key.m)
        for entry in own
        if key.first <= entry.problem.tokens <= key.last
        for trial in entry.study.trials
        if trial.config == config and trial.measurement.time_us is not None and not trial.stale
    ]
    # Of several M the one nearest to the key; of several trials of it the fastest.
    return min(found, key=lambda e: (abs(math.log(e.problem.tokens / key.m)), e.time_us))


def _dropped(
    group: Sequence[TunedEntry], chosen: Sequence[TunedEntry], choice: KeyChoice, loss: float
) -> list[NotEmitted]:
    shipped = {(entry.problem, entry.study.kernel) for entry in chosen}
    simulated = all(entry.simulated for entry in group)
    keys = [key.m for key in choice.keys]
    found = []
    for entry in group:
        if (entry.problem, entry.study.kernel) in shipped:
            continue
        m = entry.problem.tokens
        # An M that was simulated beside measured ones may lie outside of what they span.
        key = served_by(m, keys, choice.lookup)
        takes = f"M {m} takes the entry of {chosen[keys.index(key)].study.kernel} under M {key}"
        reason = f"{takes}, which loses at most {loss:.1%}"
        if entry.simulated != simulated:
            reason = f"simulated where other M were measured, and the two are not compared: {takes}"
        found.append(
            NotEmitted(
                kernel=entry.study.kernel,
                problem=str(entry.problem),
                gpu=entry.study.gpu,
                reason=reason,
                has_winner=True,
            )
        )
    return found


def _report(
    group: Sequence[TunedEntry], times: RowTimes, choice: KeyChoice, loss: float
) -> KeptRows:
    losses = losses_of(times, choice)
    return KeptRows(
        kernels=tuple(sorted({entry.study.kernel for entry in group})),
        formats=group[0].formats,
        extents=group[0].extents,
        gpu=group[0].study.gpu,
        lookup=choice.lookup.value,
        allowed_loss=loss,
        first_m=times.rows[0],
        last_m=times.rows[-1],
        rows=len(times.rows),
        tuned=times.tuned,
        keys=tuple(key.m for key in choice.keys),
        measured=losses.measured,
        interpolated=losses.interpolated,
        predicted=losses.predicted,
    )


def losses_of(times: RowTimes, choice: KeyChoice) -> Losses:
    """What lookup costs over all M of a table, told apart by where times come from."""
    rows = np.array(times.rows)
    serving = np.array(
        [next(k.config for k in choice.keys if k.first <= m <= k.last) for m in rows]
    )
    cells = times.times_us
    columns = np.arange(len(rows))
    losses = cells[serving, columns] / cells.min(axis=0) - 1.0
    # The winner of a tuned M was tried there; a loss is measured where the serving entry was too.
    told = np.isin(rows, times.tuned) & np.isfinite(times.told_us[serving, columns])
    return Losses(
        measured=None if times.simulated else _worst(rows[told], losses[told]),
        interpolated=None if times.simulated else _worst(rows[~told], losses[~told]),
        predicted=_worst(rows, losses) if times.simulated else None,
    )


def _worst(rows: NDArray[np.int64], losses: NDArray[np.float64]) -> Loss | None:
    if not len(rows):
        return None
    at = int(losses.argmax())
    return Loss(loss=float(losses[at]), m=int(rows[at]), rows=len(rows))
