"""What the command line prints: tables of GPUs, formats and winners."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from sim import Gpu
from tiles.formats import ELEMENTS, SCALE_ELEMENTS
from tiles.recipes import RECIPES
from workbench.format_facts import (
    ELEMENT_COLUMNS,
    RECIPE_COLUMNS,
    ROUNDINGS,
    RULES,
    element_cells,
    recipe_cells,
    scale_cells,
)
from workbench.prediction_tables import bytes_text

if TYPE_CHECKING:
    from tuning import Run, TrialRecord

__all__ = [
    "format_tables",
    "gpu_table",
    "winner_table",
]


def gpu_table(gpus: Iterable[Gpu]) -> Table:
    """The GPUs that ``--gpu`` knows by name."""
    table = Table(title="GPUs (--gpu NAME, or the path of a GPU file)", title_justify="left")
    for name in ("name", "vendor", "capability", "multiprocessors", "L2", "native elements"):
        table.add_column(name)
    for gpu in gpus:
        limits = gpu.limits
        table.add_row(
            gpu.name,
            limits.vendor,
            str(limits.capability),
            str(gpu.sm_count),
            bytes_text(gpu.l2_bytes),
            " ".join(sorted(limits.native_elements)),
        )
    return table


def format_tables() -> Iterable[Table]:
    """Elements, scale formats, scale rules, roundings, recipes, and where the recipes come from."""
    kept = [i for i, name in enumerate(ELEMENT_COLUMNS) if name not in ("NaN codes", "source")]
    cells = map(element_cells, ELEMENTS.values())
    yield _text_table(
        "Element formats; also e<E>m<M>[b<bias>][fn|fnuz] and ffp8_[u]e<E>m<M>[b<bias>]",
        [ELEMENT_COLUMNS[i].replace(" ", "\n") for i in kept],
        (tuple(row[i] for i in kept) for row in cells),
    )
    columns = ("name", "bits", "max", "min", "")
    yield _text_table("Scale formats (+NAME)", columns, map(scale_cells, SCALE_ELEMENTS.values()))
    rules = ((rule.value, text) for rule, text in RULES.items())
    yield _text_table("Scale rules (+NAME; p99.9 is a percentile)", ("name", "scale"), rules)
    roundings = ((rounding.value, text) for rounding, text in ROUNDINGS.items())
    yield _text_table("Roundings (+NAME)", ("name", "a value goes"), roundings)
    recipes = map(recipe_cells, RECIPES.values())
    yield _text_table("Recipes (--recipe NAME)", RECIPE_COLUMNS, recipes)
    sources = ((r.name, str(r.outliers or "-"), r.source) for r in RECIPES.values())
    yield _text_table("Sources of the recipes", ("name", "outliers", "source"), sources)


def _text_table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table of texts without frames, so that wide ones fit; its first column is never folded."""
    table = Table(
        title=escape(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def winner_table(run: "Run") -> Table:
    """The winner of every study; predicted and measured stand apart."""
    from tuning.objective import Objective

    simulated = any(study.simulated for study in run.studies)
    by_energy = any(study.objective is Objective.ENERGY for study in run.studies)
    word = "simulated" if simulated else "measured"
    title = f"{run.folder}  " + (
        "SIMULATED: times are the cost model's" if simulated else "measured"
    )
    if by_energy:
        title = title.replace("times", "times and energies") + ", least energy"
    table = Table(title=title, title_justify="left")
    table.add_column("problem", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column(f"{word} us", justify="right")
    table.add_column("predicted us", justify="right")
    if by_energy:
        table.add_column(f"{word} mJ", justify="right")
        table.add_column("predicted mJ", justify="right")
    table.add_column("trials", justify="right")
    table.add_column("legal", justify="right")
    table.add_column("configuration", overflow="fold")
    for study in run.studies:
        best = study.best
        if best is None or best.measurement.time_us is None:
            shown = ["-", "-"] + (["-", "-"] if by_energy else [])
            shown += [str(len(study.trials)), str(study.legal_size), study.stopped]
        else:
            shown = [
                f"{best.measurement.time_us:.1f}",
                f"{best.predicted_us:.1f}",
                *(_energy_cells(best) if by_energy else ()),
                str(len(study.trials)),
                str(study.legal_size),
                str(best.config),
            ]
        table.add_row(str(study.problem), study.kernel, *shown)
    return table


def _energy_cells(best: "TrialRecord") -> list[str]:
    """Measured or simulated, then predicted millijoules."""
    energy = best.measurement.energy
    found = (None if energy is None else energy.energy_mj, best.predicted_energy_mj)
    return ["-" if value is None else f"{value:.4g}" for value in found]
