"""The M keys of a tuned file: as few as the engine's lookup needs to lose at most a stated share.

vLLM and SGLang take the key nearest in |key - M|, the smaller one on a tie, so keys and entries are
chosen by that rule, over the entries that a file can hold.  Both products of experts are looked up
at one M and launched with one BLOCK_SIZE_M: theirs are chosen together, pairs of entries under the
same keys, by the sum of their times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tuning.row_keys import KeyChoice, Lookup, RowKey, choose_keys
from tuning.row_times import RowTimes, row_times, rows_between
from workbench.deploy.chosen import ChosenRow, FileKey, left_out
from workbench.deploy.families import ConfigFamily
from workbench.deploy.measured import LeftOut, entry_of
from workbench.deploy.tuned import Entry, ProductKind
from workbench.emission.kept_rows import Losses, losses_of

if TYPE_CHECKING:
    from sim import Gpu
    from tiles.kernels import TileConfig
    from tuning import StudyRecord

__all__ = ["KeptKeys", "keep_keys"]

#: Entries of the two products of experts; one entry where a file stands alone.
_Entries = tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKeys:
    """How the keys of a file were chosen."""

    lookup: str  #: by which distance loaders take the nearest key
    allowed_loss: float
    rows: int  #: how many M were looked at, from the first tuned one to the last
    tuned: tuple[int, ...]  #: M that studies searched: the keys without a choice
    keys: tuple[int, ...]
    losses: Losses  #: against the best entry that the file could hold at the same M

    def __str__(self) -> str:
        return (
            f"{len(self.tuned)} keys before, {len(self.keys)} after (M {self.tuned[0]} to "
            f"{self.tuned[-1]}, {self.rows} looked at), worst loss {self.losses}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return asdict(self)


def keep_keys(
    files: Mapping[FileKey, Sequence[ChosenRow]],
    family: ConfigFamily,
    loss: float,
    gpu: "Gpu",
    left: list[LeftOut],
) -> tuple[dict[FileKey, list[ChosenRow]], dict[FileKey, KeptKeys]]:
    """Thin the keys of every file.

    Args:
        files: a row for every tuned M.
        loss: 0.02 allows 2 %.
        left: gets the studies whose entries are spared, with the reason.
    Returns:
        The files with fewer rows, and how they were chosen.
    Raises:
        ValueError: what was tuned cannot stay within the loss.
    """
    thinned: dict[FileKey, list[ChosenRow]] = {}
    kept: dict[FileKey, KeptKeys] = {}
    for key in files:
        name, version = key
        if name.down:
            continue  # chosen with the first product
        keys = [key]
        if name.kind is ProductKind.MOE:
            keys += [one for one in [(replace(name, down=True), version)] if one in files]
        tables = [_Table(files[one], family, gpu) for one in keys]
        times, entries = _together(tables)
        try:
            choice = choose_keys(
                times.rows,
                times.times_us,
                loss=loss,
                lookup=Lookup.LINEAR,
                anchors=times.correct,
            )
        except ValueError as error:
            extents = f"N={name.n}" + (f",K={name.k}" if name.experts is None else "")
            raise ValueError(f"{family.name} {extents}: {error}") from error
        for place, one in enumerate(keys):
            rows = [_row(k, entries[k.config], tables, place) for k in choice.keys]
            thinned[one] = rows
            kept[one] = KeptKeys(
                lookup=choice.lookup.value,
                allowed_loss=loss,
                rows=len(times.rows),
                tuned=times.tuned,
                keys=tuple(k.m for k in choice.keys),
                losses=losses_of(times, choice),
            )
            left += _spared(files[one], rows, choice, loss)
    return thinned, kept


class _Table:
    """Times of a file's entries at every M that is looked at; M are tokens, as its keys are."""

    def __init__(self, rows: Sequence[ChosenRow], family: ConfigFamily, gpu: "Gpu") -> None:
        self.products = {row.product.m: row.product for row in rows}
        # Configurations that differ in what no entry says are one: the first of them stands for it.
        configs: dict[Entry, TileConfig] = {}
        for product in self.products.values():
            for entry, trial in product.eligible:
                configs.setdefault(entry, trial.config)
        studies = [_said(row, family, configs) for row in rows]
        tokens = rows_between(sorted(self.products))
        scale = studies[0].problem.tokens // rows[0].product.m  # rows of a token
        found = row_times(studies, gpu, [scale * m for m in tokens])
        self.times = replace(found, rows=tokens, tuned=tuple(sorted(self.products)))
        named = {config: entry for entry, config in configs.items()}
        self.entries = tuple(named[config] for _, config in found.candidates)


def _said(
    row: ChosenRow, family: ConfigFamily, configs: "Mapping[Entry, TileConfig]"
) -> "StudyRecord":
    """A study with the trials that an entry can say: of each the fastest, or that it fails."""
    product = row.product
    right = {entry: replace(trial, config=configs[entry]) for entry, trial in product.eligible}
    wrong = {}
    for trial in product.study.trials:
        if trial.measurement.time_us is None and not trial.stale:
            entry, _ = entry_of(trial, family, product.name)
            if entry is not None and entry in configs and entry not in right:
                wrong[entry] = replace(trial, config=configs[entry])
    return replace(product.study, trials=(*right.values(), *wrong.values()))


def _together(tables: Sequence[_Table]) -> tuple[RowTimes, list[_Entries]]:
    """Times of what is launched with one another: entries, or pairs of one BLOCK_SIZE_M."""
    first = tables[0]
    if len(tables) == 1:
        return first.times, [(entry,) for entry in first.entries]
    second = tables[1]
    pairs = [
        (i, j)
        for i, one in enumerate(first.entries)
        for j, other in enumerate(second.entries)
        if one.block_m == other.block_m
    ]
    up, down = ([pair[side] for pair in pairs] for side in (0, 1))
    times = RowTimes(
        rows=first.times.rows,
        tuned=first.times.tuned,
        candidates=tuple(first.times.candidates[i] for i in up),
        told_us=first.times.told_us[up] + second.times.told_us[down],
        modelled_us=np.where(
            np.isnan(first.times.told_us[up]), first.times.modelled_us[up], first.times.told_us[up]
        )
        + np.where(
            np.isnan(second.times.told_us[down]),
            second.times.modelled_us[down],
            second.times.told_us[down],
        ),
        simulated=first.times.simulated,
    )
    return times, [(first.entries[i], second.entries[j]) for i, j in pairs]


def _row(key: RowKey, entries: _Entries, tables: Sequence[_Table], place: int) -> ChosenRow:
    """The key's entry with a trial at an M that the key serves, the nearest where it was right."""
    right = [
        m
        for m in tables[0].products
        if key.first <= m <= key.last
        and all(e in dict(t.products[m].eligible) for e, t in zip(entries, tables, strict=True))
    ]
    m = min(right, key=lambda one: abs(one - key.m))
    return replace(ChosenRow.of(tables[place].products[m], entries[place]), m=key.m)


def _spared(
    rows: Sequence[ChosenRow], kept: Sequence[ChosenRow], choice: KeyChoice, loss: float
) -> list[LeftOut]:
    shipped = {row.product.m for row in kept}
    found = []
    for row in rows:
        m = row.product.m
        if m not in shipped:
            key = next(one for one in choice.keys if one.first <= m <= one.last)
            reason = f"M {m} takes the entry under M {key.m}, which loses at most {loss:.1%}"
            found.append(left_out(row.product, reason))
    return found
