"""What a search strategy is: a function of what is legal and what was tried, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import Status
from tuning.plan import Strategy
from tuning.strategies.legal_table import LegalTable

__all__ = ["History", "Outcome", "Proposals", "SearchStrategy"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a row ended, as far as a strategy looks at it."""

    status: Status
    value: float | None = None  #: its time or its energy; None where it is not CORRECT


class History:
    """The rows that were asked for, in the order of the first trial that named each.

    A trial that was cut short is taken again by a later one; its row keeps its place, so that a
    resumed study has the history of one that was never interrupted.

    Args:
        size: number of legal rows.
    """

    def __init__(self, size: int) -> None:
        self.untried: NDArray[np.bool_] = np.ones(size, dtype=np.bool_)
        self._places: dict[int, int] = {}
        self._rows: list[int] = []  # in order, as long as _sorted says so
        self._sorted = True
        self._outcomes: dict[int, Outcome] = {}

    def __len__(self) -> int:
        """Number of rows asked for, with or without an outcome."""
        return len(self._places)

    @property
    def rows(self) -> list[int]:
        """Rows asked for, in order; not to be changed."""
        if not self._sorted:
            self._rows.sort(key=self._places.__getitem__)
            self._sorted = True
        return self._rows

    @property
    def told(self) -> list[tuple[int, Outcome]]:
        """Rows with their outcomes, in the order in which they were asked for."""
        return [(row, self._outcomes[row]) for row in self.rows if row in self._outcomes]

    def outcome(self, row: int) -> Outcome | None:
        """How a row ended, or None when it has not."""
        return self._outcomes.get(row)

    @property
    def finished(self) -> int:
        """Number of rows with an outcome."""
        return len(self._outcomes)

    def ask(self, row: int, number: int) -> None:
        """Note that a trial of this number names the row."""
        place = self._places.get(row)
        if place is None:
            last = self._places[self._rows[-1]] if self._rows else -1
            self._sorted = self._sorted and number > last
            self._rows.append(row)
        elif number < place:
            self._sorted = False
        self._places[row] = number if place is None else min(number, place)
        self.untried[row] = False

    def tell(self, row: int, outcome: Outcome) -> None:
        """Note a row's outcome; the row was asked for before."""
        assert row in self._places, "told of a row that was never asked for"
        self._outcomes[row] = outcome

    def first(self, count: int) -> "History":
        """The history as it stood when ``count`` rows had been asked for and told."""
        if count >= len(self):
            return self
        earlier = History(len(self.untried))
        for row in self.rows[:count]:
            earlier.ask(row, self._places[row])
            if row in self._outcomes:
                earlier.tell(row, self._outcomes[row])
        return earlier

    def correct(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """CORRECT rows and their values, in order."""
        pairs = [(row, o.value) for row, o in self.told if o.value is not None]
        return np.array([r for r, _ in pairs], dtype=np.int64), np.array([t for _, t in pairs])


class SearchStrategy(ABC):
    """Answers which rows to measure next, and when to stop.

    A strategy keeps no state of its own: the same history gives the same answer, whichever
    process asks and however often it was resumed.

    Args:
        legal: the study's configurations, at least one.
        seed: of this study; at least 0.
        budget: outcomes after which the study ends; ``exhaustive`` takes no notice of it.
        neighbours: rows that won neighbouring problems, nearest first.
        early_stop: whether the strategy may stop within the budget.
    """

    name: ClassVar[Strategy]
    #: False when the seed changes nothing.
    seeded: ClassVar[bool] = True

    def __init__(
        self,
        legal: LegalTable,
        *,
        seed: int,
        budget: int,
        neighbours: Sequence[int] = (),
        early_stop: bool = True,
    ) -> None:
        self.legal = legal
        self.seed = seed
        self.budget = min(budget, len(legal))
        self.neighbours = tuple(dict.fromkeys(neighbours))
        self.early_stop = early_stop

    @cached_property
    def openers(self) -> list[int]:
        """Rows that it measures first whatever comes of them, in order."""
        return self.choose_openers()

    def choose_openers(self) -> list[int]:
        """What :attr:`openers` holds."""
        return []

    def propose(self, history: History, count: int) -> list[int]:
        """The next rows: never tried, each once, ``count`` of them or all that are left."""
        rows = [row for row in self.openers if history.untried[row]]
        if not rows:
            rows = self.search(history, min(count, int(history.untried.sum())))
        return rows[:count]

    @abstractmethod
    def search(self, history: History, count: int) -> list[int]:
        """The next ``count`` rows once the openers were asked for; at least as many are left."""

    def stop(self, history: History) -> str:
        """Why no further row is needed, or "" while one is."""
        if history.finished >= self.budget:
            return f"{history.finished} of {self.budget} measurements done"
        if not history.untried.any():
            return "every legal configuration was tried"
        if not self.early_stop or any(history.untried[row] for row in self.openers):
            return ""
        return self.satisfied(history)

    def satisfied(self, history: History) -> str:
        """Why nothing better is to be expected of the rest, or "" when it is."""
        return ""

    def rng(self, history: History) -> np.random.Generator:
        """Random numbers that depend on the study's seed and how many rows were asked for."""
        return np.random.default_rng([self.seed, len(history)])


class Proposals:
    """A strategy's rows one at a time, drawn in batches so that compilers can work ahead.

    A batch rests on what was known when its first row was asked for.  A study that is resumed in
    the middle of a batch draws the same batch again and goes on in it.

    Args:
        batch: rows drawn at a time once the openers are through.
    """

    def __init__(self, strategy: SearchStrategy, batch: int = 1) -> None:
        self._strategy = strategy
        self._batch = batch
        self._opening = len(strategy.openers)
        self._drawn: tuple[int, list[int]] = (-1, [])
        #: The batch that the last row came from, when that row was its first.
        self.fresh: list[int] = []

    def next(self, history: History, ahead: int = 0) -> int:
        """The row to measure next.

        Args:
            ahead: trials of other processes that were begun before this one and whose rows are
                not known yet; as many of the coming rows are left to them.
        """
        asked = len(history)
        since = max(0, asked - self._opening)
        begin = asked - since % self._batch
        for start in dict.fromkeys((begin, asked)):
            rows = [row for row in self._rows(history, start, ahead) if history.untried[row]]
            if rows:
                return rows[min(ahead, len(rows) - 1)]
        # Others measure what is left: one of theirs is measured twice rather than none at all.
        told = {row for row, _ in history.told}
        pending = [row for row in history.rows if row not in told]
        assert pending, "asked for a row of an exhausted space"
        return pending[ahead % len(pending)]

    def _rows(self, history: History, start: int, ahead: int) -> list[int]:
        self.fresh = []
        if self._drawn[0] != start or len(self._drawn[1]) <= ahead:
            count = self._batch if start >= self._opening else 1
            rows = self._strategy.propose(history.first(start), max(count, ahead + 1))
            self._drawn = (start, rows)
            self.fresh = rows
        return self._drawn[1]
