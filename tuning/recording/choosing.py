"""Chooses a recording's studies and configurations.

Recording is cut into slices of device time, so the order is one of value: shapes that differ come
first, every shape in all recipes and families, and every beginning of the list is spread over rows,
depths, formats and families.  A study's configurations are the model's best of its own, then some
of a *deck* that all shapes of a family and recipe share, stratified by the time predicted for this
shape: extents are arguments of a launch, so a configuration is compiled once for all of them.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from sim import Gpu, price, unpriced
from sim.prediction import PricedTable
from tiles.kernels import Kernel, TileConfig, kernels
from tiles.kernels.closure import source_digest
from tiles.problems import Problem
from tuning.family import family
from tuning.plan import StudyPlan
from tuning.recording.design import OWN, Design, RecordedStudy
from tuning.recording.problems import WARM_RECIPES, Shape, others, products, shapes, streams
from tuning.strategies import History, LegalTable
from tuning.strategies.legal_table import diverse_best
from tuning.strategies.stratified import StratifiedStrategy

__all__ = ["make_design"]

#: Configurations of one product over all families, of an anchor's leading family, of its others,
#: of what is no plain product, and of a study with a warm L2.
PLAIN, DEEP, BESIDE, BESIDE_EACH, WARM = 40, 150, 12, 12, 8
#: A space up to here is measured whole where a deep study is asked for.
WHOLE = 170
#: Configurations of an anchor that a deck begins with.
TO_DECK = 12
WARM_EVERY = 4
#: Where the median of a space reaches more of its best than this, as predicted, any row would do.
#: That of a draw, of which half is from the faster fifth, reaches up to 0.08 more: at most 0.7.
MATTERS = 0.62
#: Shapes over which the problems that are no plain products are spread.
SPREAD_OVER = 44


def make_design(
    gpu: Gpu, seed: int, *, first: int | None = None, own_shapes: Sequence[Shape] | None = None
) -> Design:
    """Choose studies and configurations; the same seed gives the same design.

    Args:
        first: shapes to take from the beginning of the order; all by default.
        own_shapes: in place of the seed's.

    Raises:
        ValueError: no family serves anything on that GPU.
    """
    chosen = shapes(seed) if own_shapes is None else list(own_shapes)
    chooser = _Chooser(gpu, seed, [one for one in chosen if one.anchor])
    beside = {"streams": streams(seed), "others": others(seed)}
    chosen = chosen[:first]
    studies: list[RecordedStudy] = []
    for place, shape in enumerate(chosen):
        studies += chooser.studies_of(shape, place)
        for part, problems in beside.items():
            begin, end = (len(problems) * at // SPREAD_OVER for at in (place, place + 1))
            for problem in problems[begin:end]:
                studies += chooser.studies_beside(problem, part)
    if not studies:
        raise ValueError(f"no kernel family runs on {gpu.name}: nothing can be recorded")
    used = sorted({one.plan.kernel for one in studies})
    return Design(
        gpu=gpu.name,
        gpu_sha256=hashlib.sha256(gpu.text.encode()).hexdigest(),
        seed=seed,
        sources={name: source_digest(family(name).template) for name in used},
        studies=tuple(studies),
    )


class _Chooser:
    """Chooses configurations; prices every (problem, family) once."""

    def __init__(self, gpu: Gpu, seed: int, anchors: Sequence[Shape]) -> None:
        self._gpu, self._seed, self._anchors = gpu, seed, anchors
        self._decks: dict[tuple[str, str], set[TileConfig]] = {}
        self._priced: dict[tuple[Problem, str], PricedTable] = {}

    def studies_of(self, shape: Shape, place: int) -> Iterator[RecordedStudy]:
        """A shape's studies under every recipe, and those with a warm L2 behind them."""
        warm: list[RecordedStudy] = []
        for number, (name, problem) in enumerate(products(shape)):
            families = self._families(problem)
            for one, count in self._shares(problem, families, shape.anchor, place + number):
                deck = self._deck(name, one, self._anchors)
                configs = self._choose(problem, one, count, deck)
                study = self._study(problem, one, "products", configs)
                yield study
                if place % WARM_EVERY == 0 and name in WARM_RECIPES:
                    warm.append(self._study(problem, one, "warm", configs[:WARM]))
        yield from warm

    def studies_beside(self, problem: Problem, part: str) -> Iterator[RecordedStudy]:
        """The studies of a problem that is no plain product."""
        for one in self._families(problem):
            kind, _, *rest = str(problem).split(":")
            deck = self._deck(":".join((kind, *rest)), one, ())
            yield self._study(problem, one, part, self._choose(problem, one, BESIDE_EACH, deck))

    def _study(
        self, problem: Problem, one: Kernel, part: str, configs: Sequence[TileConfig]
    ) -> RecordedStudy:
        return RecordedStudy(
            plan=StudyPlan(problem=problem, kernel=one.name),
            part=part,
            cache="warm" if part == "warm" else "cold",
            legal_size=len(self._price(problem, one)),
            configs=tuple(configs),
        )

    def _families(self, problem: Problem) -> list[Kernel]:
        limits = self._gpu.limits
        able = [
            one
            for one in kernels().values()
            if one.refusal(problem, limits) is None and unpriced(problem, one) is None
        ]
        return [one for one in able if len(self._price(problem, one))]

    def _price(self, problem: Problem, one: Kernel) -> PricedTable:
        key = problem, one.name
        if key not in self._priced:
            accepted = one.legal_space(problem, self._gpu.limits).accepted
            self._priced[key] = price(problem, one, accepted, self._gpu)
        return self._priced[key]

    def _shares(
        self, problem: Problem, families: Sequence[Kernel], anchor: bool, turn: int
    ) -> list[tuple[Kernel, int]]:
        """How many configurations of each family; what one lacks the others get."""
        sizes = [len(self._price(problem, one)) for one in families]
        if anchor:
            lead = self._lead(problem, families, turn)
            deep = [min(size, WHOLE if size <= WHOLE else DEEP) for size in sizes]
            counts = [
                deep[place] if place == lead else min(size, BESIDE)
                for place, size in enumerate(sizes)
            ]
            return list(zip(families, counts, strict=True))
        counts = [0] * len(sizes)
        while sum(counts) < min(PLAIN, sum(sizes)):
            # The family that has least so far among those that have more to give.
            open_ = [place for place, size in enumerate(sizes) if counts[place] < size]
            counts[min(open_, key=lambda place: counts[place])] += 1
        return list(zip(families, counts, strict=True))

    def _lead(self, problem: Problem, families: Sequence[Kernel], turn: int) -> int:
        """The family that is searched deeply: in turns, of those where choosing matters."""
        priced = [self._price(problem, one) for one in families]
        reached = [float(one.time_us.min() / np.median(one.time_us)) for one in priced]
        large = [place for place, one in enumerate(priced) if len(one) >= DEEP]
        if not large:
            return max(range(len(priced)), key=lambda place: len(priced[place]))
        matter = [place for place in large if reached[place] <= MATTERS]
        return matter[turn % len(matter)] if matter else min(large, key=reached.__getitem__)

    def _deck(self, name: str, one: Kernel, anchors: Sequence[Shape]) -> set[TileConfig]:
        """Configurations of a family that all shapes under a name draw from, and add to."""
        key = name, one.name
        if key not in self._decks:
            deck: set[TileConfig] = set()
            for place, shape in enumerate(anchors):
                problem = shape.problem(name)
                if one.name not in {found.name for found in self._families(problem)}:
                    continue
                priced = self._price(problem, one)
                rows = _stratified(LegalTable.of(priced), [], TO_DECK, self._seed + place)
                deck.update(priced.table.config(row) for row in rows)
            self._decks[key] = deck
        return self._decks[key]

    def _choose(
        self, problem: Problem, one: Kernel, count: int, deck: set[TileConfig]
    ) -> list[TileConfig]:
        priced = self._price(problem, one)
        legal = LegalTable.of(priced)
        if count >= len(legal):
            chosen = legal.ranking.tolist()
        else:
            chosen = diverse_best(priced.table, legal.ranking, min(OWN, count))
            found = (legal.row(config.to_dict()) for config in deck)
            shared = sorted({row for row in found if row is not None} - set(chosen))
            if shared:
                rows = np.array(shared)
                part = LegalTable(
                    priced.table.take(rows),
                    priced.time_us[rows],
                    priced.low_us[rows],
                    priced.high_us[rows],
                )
                picked = _stratified(part, [], min(count - len(chosen), len(rows)), self._seed)
                chosen += [shared[row] for row in picked]
            chosen += _stratified(legal, chosen, count - len(chosen), self._seed)
        configs = [priced.table.config(row) for row in chosen]
        deck.update(configs)
        return configs


def _stratified(legal: LegalTable, taken: Sequence[int], count: int, seed: int) -> list[int]:
    """Rows beside those taken, spread over predicted times and unlike one another."""
    count = min(count, len(legal) - len(taken))
    history = History(len(legal))
    for number, row in enumerate(taken):
        history.ask(row, number)
    strategy = StratifiedStrategy(legal, seed=seed, budget=max(1, count))
    return strategy.search(history, count)
