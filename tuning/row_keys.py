"""Which M a file of tuned configurations keeps, and which configuration at each: as few as do.

Whoever looks a configuration up takes the entry whose key is nearest to the M of the call, so the
M between two keys are divided at a boundary that depends on these two keys alone.  That makes the
choice a shortest path: a state is a key with its configuration, a step goes to the next key, and a
step is allowed where the left key's configuration loses little up to the boundary and the right
key's from there on.  The answer is exact: no smaller set of keys stays within the loss.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyChoice", "Lookup", "RowKey", "choose_keys", "served_by"]

F64 = NDArray[np.float64]

#: Time grows with the square of the rows: 130 take a quarter of a second, so many several.
MAX_ROWS = 512


class Lookup(Enum):
    """By which distance a key is the nearest; a tie goes to the smaller key."""

    LINEAR = "linear"  #: |key - M|, as vLLM and SGLang do; keys must be written ascending
    LOG = "log"  #: |log(key / M)|, as packages of the workbench do

    def left_of(self, m: int, left: int, right: int) -> bool:
        """Whether ``m`` is served by ``left`` rather than by ``right``, which is larger."""
        return 2 * m <= left + right if self is Lookup.LINEAR else m * m <= left * right


@dataclass(frozen=True, slots=True, kw_only=True)
class RowKey:
    """One key of the file, and the rows that it serves."""

    m: int
    config: int  #: row of the table of times
    first: int  #: smallest M of the table that is served by it
    last: int  #: largest
    loss: float  #: worst time over the best configuration's of the same M, less 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChoice:
    """The fewest keys whose lookup stays within a loss and, among as few, the least loss."""

    keys: tuple[RowKey, ...]  #: ascending
    lookup: Lookup
    worst_loss: float
    worst_m: int  #: where that is


def served_by(m: int, keys: Sequence[int], lookup: Lookup) -> int:
    """The key that serves ``m``: the slow twin of what loaders do.

    Args:
        m: at least 1.
        keys: ascending, at least one.
    """
    best = keys[0]
    for key in keys[1:]:
        if not lookup.left_of(m, best, key):
            best = key
    return best


def choose_keys(
    rows: Sequence[int],
    times_us: F64,
    *,
    loss: float,
    lookup: Lookup,
    allowed: NDArray[np.bool_] | None = None,
    anchors: NDArray[np.bool_] | None = None,
) -> KeyChoice:
    """Choose keys and configurations so that lookup loses at most ``loss`` on every row.

    Args:
        rows: every M that counts, ascending, each at least 1.
        times_us: (configurations, rows); infinite where a configuration cannot run.  Rows are
            compared with the least time of their column.
        loss: 0.02 allows 2 %.
        lookup: the reader's rule.
        allowed: (configurations, rows): which configuration may stand at which key; default: all
            that can run there.
        anchors: (configurations, rows): of the rows that a key serves, its configuration must have
            one of these, e.g. one where it was measured; default: all.

    Raises:
        ValueError: rows or times that are none, or keys that stay within the loss do not exist; the
            message has the least loss that can be had.
    """
    ratio = _ratio(rows, times_us)
    may = np.isfinite(ratio) if allowed is None else allowed & np.isfinite(ratio)
    held = np.ones_like(may) if anchors is None else anchors
    found = _fewest(rows, ratio, may, held, loss, lookup)
    if found is None:
        raise ValueError(
            f"no keys keep the loss of M {rows[0]} to {rows[-1]} within {loss:.1%}: "
            + _least(rows, ratio, may, held, lookup)
        )
    return _choice(rows, ratio, found, lookup)


def _ratio(rows: Sequence[int], times_us: F64) -> F64:
    """Time over the best of the same row."""
    ascending = all(a < b for a, b in itertools.pairwise(rows))
    if not rows or rows[0] < 1 or not ascending or len(rows) > MAX_ROWS:
        raise ValueError(
            f"rows {list(rows)[:8]}: give 1 to {MAX_ROWS} different M, ascending, each at least 1"
        )
    if times_us.ndim != 2 or times_us.shape[1] != len(rows) or not len(times_us):
        raise ValueError(
            f"times of shape {times_us.shape}: give (configurations, {len(rows)} rows)"
        )
    best = times_us.min(axis=0)
    if not (times_us > 0).all() or not np.isfinite(best).all():
        raise ValueError("times must be positive, and finite for one configuration of each row")
    ratio: F64 = times_us / best - 1.0
    return ratio


def _fewest(
    rows: Sequence[int],
    ratio: F64,
    may: NDArray[np.bool_],
    anchors: NDArray[np.bool_],
    loss: float,
    lookup: Lookup,
) -> list[tuple[int, int]] | None:
    """(row, configuration) of each key; ``None`` where no keys stay within the loss."""
    configs, count = ratio.shape
    # A state is a key with its configuration, and whether that has an anchor up to the key.  Of
    # each: the least number of keys, the worst loss of the rows up to it, and where it came from.
    keys = np.full((count, configs, 2), np.inf)
    worst = np.full((count, configs, 2), np.inf)
    before = np.full((count, configs, 2, 3), -1, dtype=np.int64)
    #: At [i][:, b]: the worst of b rows behind i.
    right = [_running(ratio[:, i + 1 :]) for i in range(count)]
    #: At [:, b]: anchors before row b.
    counted = np.concatenate([np.zeros((configs, 1), int), anchors.cumsum(axis=1)], axis=1)
    end: tuple[float, float, int, int, int] | None = None
    #: Keys that a next one may still follow: what they serve grows with it, and so does the loss.
    alive: list[int] = []
    for j in range(count):
        #: At [:, b]: the worst of rows b to j.
        left = np.maximum.accumulate(ratio[:, j::-1], axis=1)[:, ::-1]
        for i in [-1, *alive]:
            split = -1 if i < 0 else _boundary(rows, i, j, lookup)
            fewest, reached, source = 0.0, 0.0, (-1, -1, -1)
            if i >= 0:
                behind = counted[:, split + 1] > counted[:, i + 1]
                so_far = np.maximum(worst[i], right[i][:, split - i, None])
                open_ = np.isfinite(keys[i]) & (so_far <= loss)
                if not open_.any():
                    alive.remove(i)
                    continue
                open_ &= np.stack([behind, np.ones_like(behind)], axis=1)
                if not open_.any():
                    continue
                fewest = keys[i, open_].min()
                best = np.where(open_ & (keys[i] == fewest), so_far, np.inf)
                config, anchored = divmod(int(best.argmin()), 2)
                reached, source = float(best[config, anchored]), (i, config, anchored)
            arrived = np.maximum(reached, left[:, split + 1])
            place = (counted[:, j + 1] > counted[:, split + 1]).astype(int)
            known = np.arange(configs), place
            better = may[:, j] & (arrived <= loss)
            better &= (fewest + 1 < keys[j][known]) | (
                (fewest + 1 == keys[j][known]) & (arrived < worst[j][known])
            )
            chosen = np.flatnonzero(better)
            keys[j, chosen, place[chosen]] = fewest + 1
            worst[j, chosen, place[chosen]] = arrived[chosen]
            before[j, chosen, place[chosen]] = source
        alive.append(j)
        total = np.maximum(worst[j], right[j][:, -1, None])
        behind = counted[:, count] > counted[:, j + 1]
        for c, s in np.argwhere(np.isfinite(keys[j]) & (total <= loss)):
            if s or behind[c]:
                here = (float(keys[j, c, s]), float(total[c, s]), j, int(c), int(s))
                end = here if end is None else min(end, here)
    if end is None:
        return None
    state = end[2:]
    path = []
    while state[0] >= 0:
        path.append((state[0], state[1]))
        i, c, s = before[state]
        state = (int(i), int(c), int(s))
    return path[::-1]


def _running(columns: F64) -> F64:
    """Running maximum, with a column of zeros in front for "none of them"."""
    padded = np.concatenate([np.zeros((len(columns), 1)), columns], axis=1)
    running: F64 = np.maximum.accumulate(padded, axis=1)
    return running


def _boundary(rows: Sequence[int], i: int, j: int, lookup: Lookup) -> int:
    """The last row that key ``i`` serves when key ``j`` is the next one."""
    low, high = i, j - 1
    while low < high:
        middle = (low + high + 1) // 2
        if lookup.left_of(rows[middle], rows[i], rows[j]):
            low = middle
        else:
            high = middle - 1
    return low


def _least(
    rows: Sequence[int],
    ratio: F64,
    may: NDArray[np.bool_],
    anchors: NDArray[np.bool_],
    lookup: Lookup,
) -> str:
    """What can be had instead: the least loss of any set of keys, and where that is."""
    losses = np.unique(ratio[np.isfinite(ratio)])
    low, high = 0, len(losses)
    path: list[tuple[int, int]] | None = None
    while low < high:
        middle = (low + high) // 2
        found = _fewest(rows, ratio, may, anchors, float(losses[middle]), lookup)
        if found is None:
            low = middle + 1
        else:
            high, path = middle, found
    if path is None:
        return "some M has no entry that could serve it: tune more M"
    best = _choice(rows, ratio, path, lookup)
    return f"{best.worst_loss:.1%} at M {best.worst_m} is the least: tune that M too, or allow more"


def _choice(
    rows: Sequence[int], ratio: F64, path: list[tuple[int, int]], lookup: Lookup
) -> KeyChoice:
    first = 0
    keys: list[RowKey] = []
    worst = (-1.0, rows[0])
    for place, (row, config) in enumerate(path):
        following = path[place + 1][0] if place + 1 < len(path) else None
        last = len(rows) - 1 if following is None else _boundary(rows, row, following, lookup)
        served = ratio[config, first : last + 1]
        at = int(served.argmax())
        worst = max(worst, (float(served[at]), rows[first + at]), key=lambda pair: pair[0])
        keys.append(
            RowKey(
                m=rows[row],
                config=config,
                first=rows[first],
                last=rows[last],
                loss=float(served[at]),
            )
        )
        first = last + 1
    return KeyChoice(keys=tuple(keys), lookup=lookup, worst_loss=worst[0], worst_m=worst[1])
