"""``workbench evaluate``: the cost model and its rivals judged by stored measurements."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import sim
from sim.evaluation import Kind, ScoredRow, Split, default_predictors, parse_split, score
from sim.evaluation import evaluate as evaluate_tables
from sim.evaluation.aims import AIMS, PREDICTOR_OF, Regime, reached
from sim.evaluation.baselines.own import CostModelAsItIs
from sim.evaluation.calibrated import CalibratedModel
from sim.evaluation.frozen import FrozenPart, frozen_parts
from sim.evaluation.pace import predictions_per_second
from sim.evaluation.predictor import Predicted, Predictor
from sim.evaluation.residuals import by_binding, by_instruction, slopes
from sim.evaluation.score import Score
from sim.measured import MeasuredTable
from tiles.intake import shown
from tiles.kernels.closure import source_digest
from workbench.arguments import count_of, items_of
from workbench.evaluation_report import Evaluation
from workbench.evaluation_searches import replay_searches, shares_of

if TYPE_CHECKING:
    from tuning.data_sets import DataSet
    from tuning.searched import Searched

__all__ = ["DEFAULT_DATA", "evaluate", "load_judged"]

#: Where a checkout of the sources keeps its data sets.
DEFAULT_DATA = Path("data/h200")


def evaluate(
    data: Sequence[str | Path] | str | Path | None = None,
    *,
    splits: Sequence[str] | str | None = None,
    gpu: str | None = None,
    predictors: Sequence[Predictor] | None = None,
    calibrated: bool = False,
    search: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Judge the cost model and its rivals by stored measurements; needs no GPU.

    Args:
        data: data sets, run folders, or folders of them; ``data/h200`` when None.
        splits: what is held out from predictors that learn (``rows shape m-regime k-regime format
            block-size template``); all when None.
        gpu: a GPU file to predict with in place of the one that the data name.
        predictors: who is judged; all that come with the workbench when None.
        calibrated: whether what a calibration would learn is judged beside them, some minutes more;
            where no ``splits`` are named, on those alone of which something is asked.
        search: whether searches are replayed too, which takes half of the time.
        seed: of splits, bootstraps and draws.
        progress: told how many scores are done, of how many.

    Raises:
        ValueError: no data, none of a cold L2, a damaged set, sets of several GPUs or of another
            than ``gpu``, an unknown split, a seed out of range.
        TypeError: an argument of another type.
    """
    begun = time.monotonic()
    if not 0 <= count_of("seed", seed) < 2**32:
        raise ValueError(f"seed = {seed}: must lie in 0..2^32-1")
    chosen = [parse_split(text) for text in items_of("splits", splits, str, "names of splits")]
    sets, board = load_judged(data, gpu)
    # Predictions are of a cold L2: times with a warm one would pass for the model's errors.
    # What a search chose by its own predictions is judged apart.
    tables = [t for one in sets if not one.foretold for t in one.tables if t.cold]
    frozen = _frozen(sets, board)
    if not tables:
        raise ValueError(
            f"{sets[0].path}: all times are of a warm L2, and predictions of a cold one, or chosen "
            "by predictions: give a set to judge by"
        )
    asked = list(dict.fromkeys(chosen))
    tell = progress or (lambda done, of: None)
    told: dict[str, list[tuple[MeasuredTable, Predicted | None]]] = {}

    def answered(row: ScoredRow, answers: Sequence[Predicted | None]) -> None:
        if row.split is Split.SHAPE:
            held_out = [table for table in tables if not table.in_view]
            told[row.predictor] = list(zip(held_out, answers, strict=True))

    rows, skipped = evaluate_tables(
        tables,
        board,
        default_predictors() if predictors is None else predictors,
        asked or list(Split),
        seed=seed,
        progress=tell,
    )
    if calibrated:
        # A fit takes half a minute: of all splits those that something is asked of.
        aimed = asked or list(dict.fromkeys(one.split for one in AIMS))
        models = (CalibratedModel(64), CalibratedModel())
        rows += evaluate_tables(
            tables, board, models, aimed, seed=seed, progress=tell, answered=answered
        )[0]
    own = CostModelAsItIs()
    judged = [
        table
        for table in tables
        if not table.in_view and sim.unpriced(table.problem, table.kernel) is None
    ]
    priced = [sim.price(one.problem, one.kernel, one.table, board, one.facts) for one in judged]
    searches = replay_searches(own, judged, told, board) if search else []
    pace = _pace(judged, board)
    return Evaluation(
        gpu=board.name,
        sets=tuple(sets),
        rows=tuple(rows),
        skipped=tuple(skipped),
        parts=tuple(_parts(own, judged, board)),
        in_view=tuple(_in_view(own, sets, board)),
        searches=tuple(searches),
        bindings=tuple(by_binding(judged, priced)),
        instructions=tuple(by_instruction(judged, priced)),
        slopes=tuple(slopes(judged, priced)),
        frozen=tuple(frozen),
        reached=tuple(reached(rows, _figures(own, judged, sets, board, searches, pace))),
        pace=tuple(pace),
        seconds=time.monotonic() - begun,
    )


def load_judged(
    data: Sequence[str | Path] | str | Path | None, gpu: str | None
) -> "tuple[list[DataSet], sim.Gpu]":
    """Data sets and the GPU to predict with.

    Raises:
        ValueError: as :func:`evaluate` says.
    """
    from tuning.data_sets import load_data_sets

    paths = [Path(one) for one in items_of("data", data, (str, Path), "paths of data sets")]
    sets = load_data_sets(paths or [DEFAULT_DATA])
    measured_on = next(table.gpu for one in sets for table in one.tables)
    try:
        board = sim.load_gpu(gpu or measured_on)
    except ValueError as error:
        if gpu is not None:
            raise
        raise ValueError(
            f"{sets[0].path} was measured on {shown(measured_on)}, which has no GPU file: name "
            "one with --gpu"
        ) from error
    if board.name != measured_on:
        raise ValueError(
            f"{sets[0].path} was measured on {measured_on}, --gpu is {board.name}: predictions "
            "for another GPU cannot be judged by it"
        )
    return sets, board


def _parts(
    own: CostModelAsItIs, judged: Sequence[MeasuredTable], gpu: sim.Gpu
) -> list[tuple[str, Score]]:
    """The cost model's score for every family and format."""
    groups: dict[str, list[MeasuredTable]] = {}
    for table in judged:
        recipe = getattr(table.problem, "recipe", None)
        name = table.problem.formats[0] if recipe is None else recipe.name
        groups.setdefault(f"{table.kernel.name} {name}", []).append(table)
    return [(name, _score(own, groups[name], gpu)) for name in sorted(groups)]


def _frozen(sets: "Sequence[DataSet]", gpu: sim.Gpu) -> list[FrozenPart]:
    """What searches chose by predictions."""
    pairs = [
        (table, told)
        for one in sets
        if one.foretold
        for table, told in zip(one.tables, one.foretold, strict=True)
        if table.cold
    ]
    return frozen_parts([t for t, _ in pairs], [told for _, told in pairs], gpu) if pairs else []


def _passes_of_today(sets: "Sequence[DataSet]") -> list[MeasuredTable]:
    """Held-out tables of memory-bound kernels that a search chose, where the source is today's."""
    return [
        table
        for one in sets
        if one.foretold
        for table in one.tables
        if table.cold
        and not table.in_view
        and not table.problem.flops
        and table.source == source_digest(table.kernel.template)
    ]


def _in_view(
    own: CostModelAsItIs, sets: "Sequence[DataSet]", gpu: sim.Gpu
) -> list[tuple[str, Score]]:
    found = []
    for one in sets:
        tables = [t for t in one.tables if t.in_view and not one.foretold]
        if tables:
            found.append((one.path.as_posix(), _score(own, tables, gpu)))
    return found


def _score(own: CostModelAsItIs, tables: Sequence[MeasuredTable], gpu: sim.Gpu) -> Score:
    return score(tables, [own.predict(one.blinded(), gpu) for one in tables], Kind.FORMULA)


def _pace(judged: Sequence[MeasuredTable], gpu: sim.Gpu) -> list[tuple[str, float]]:
    """Predictions a second of the largest table's kind, of what needs no fit."""
    if not judged:
        return []
    largest = max(judged, key=len)
    found = []
    for one in default_predictors():
        if one.kind in (Kind.FORMULA, Kind.ORDER):
            pace = predictions_per_second(one, largest, gpu)
            if pace is not None:
                found.append((one.name, pace))
    return found


def _figures(
    own: CostModelAsItIs,
    judged: Sequence[MeasuredTable],
    sets: "Sequence[DataSet]",
    gpu: sim.Gpu,
    searches: "Sequence[Searched]",
    pace: Sequence[tuple[str, float]],
) -> dict[Regime, dict[str, float]]:
    """What is asked for and is no field of a score; of today's kernels what they were told."""
    found: dict[str, float] = {}
    # Without a sample of a space: what a search chose, at shapes that no constant was set on.
    memory = [t for t in judged if not t.problem.flops] or _passes_of_today(sets)
    error = _score(own, memory, gpu).mape if memory else None
    if error is not None:
        found["memory_mape"] = error
    if own.name in dict(pace):
        found["pace"] = dict(pace)[own.name] / 1e6
    figures = {regime: shares_of(searches, name) for regime, name in PREDICTOR_OF.items()}
    figures[Regime.NONE] |= found
    return figures
