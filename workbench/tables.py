"""What the command line prints: tables of predictions, GPUs, formats and checks."""

from collections.abc import Iterable, Mapping
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
from workbench.predictions import PredictionReport

if TYPE_CHECKING:
    from tuning import Run

__all__ = [
    "extrapolated_lines",
    "format_tables",
    "gpu_table",
    "prediction_tables",
    "winner_table",
]


#: Fields of configurations by the letter that stands for them in a table.
_LETTERS = {
    "cluster": "c",
    "group_m": "g",
    "num_warps": "w",
    "num_stages": "s",
    "stages": "s",
    "store_buffers": "b",
}


def _bytes(count: float) -> str:
    """A byte count in binary units with three significant digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _ratio(value: float | None) -> str:
    """A speed-up, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def prediction_tables(report: PredictionReport) -> Iterable[Table]:
    """One table a shape; every time in it is predicted."""
    by_shape: dict[tuple[int, int, int], list[int]] = {}
    for index, row in enumerate(report.rows):
        by_shape.setdefault(row.problem.shape, []).append(index)
    for (m, n, k), indices in by_shape.items():
        first = report.rows[indices[0]]
        layer = f"  {first.layer} (x{first.count})" if first.layer else ""
        table = Table(
            title=f"{report.gpu}  M={m} N={n} K={k}{layer}  predicted, not measured",
            title_justify="left",
        )
        table.add_column("recipe", no_wrap=True)
        table.add_column("path")
        for name in ("time us", "90 % interval", "TFLOP/s"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("x bf16\nkernel", justify="right")
        table.add_column("x bf16\nwith quantize", justify="right")
        table.add_column("limit")
        table.add_column("DRAM bytes", justify="right", no_wrap=True)
        table.add_column("SQNR dB\nnormal", justify="right")
        table.add_column("SQNR dB\noutliers", justify="right")
        table.add_column("best configuration", overflow="fold")
        for index in indices:
            row = report.rows[index]
            gemm = row.gemm
            table.add_row(
                row.problem.recipe.name,
                gemm.path.value,
                f"{gemm.time_us:.1f}",
                f"{gemm.low_us:.1f}-{gemm.high_us:.1f}",
                f"{gemm.tflops:.0f}",
                _ratio(row.speedup_kernel),
                _ratio(row.speedup_with_quantize),
                gemm.binding,
                _bytes(gemm.dram_read_bytes + gemm.dram_write_bytes),
                f"{row.sqnr_normal_db:.1f}",
                f"{row.sqnr_outlier_db:.1f}",
                _short_config(gemm.kernel, gemm.config.to_dict()),
            )
        yield table


def extrapolated_lines(report: PredictionReport) -> Iterable[str]:
    """What lies beyond the measurements that the calibration rests on, a line a reason."""
    reasons: dict[str, list[str]] = {}
    for row in report.rows:
        if row.gemm.extrapolated:
            name = f"{row.problem.recipe.name} ({row.gemm.kernel})"
            reasons.setdefault(row.gemm.extrapolated, []).append(name)
    for reason, names in reasons.items():
        yield f"extrapolated, wider interval: {reason}: {', '.join(dict.fromkeys(names))}"


def _short_config(kernel: str, config: Mapping[str, int | bool]) -> str:
    """``triton 128x256x64 g8 w8 s4 tma persistent``: family, and the usual way to write a tile."""
    blocks = [str(config[name]) for name in ("block_m", "block_n", "block_k") if name in config]
    counts = [f"{letter}{config[name]}" for name, letter in _LETTERS.items() if name in config]
    flags = [name for name, value in config.items() if value is True]
    return " ".join([kernel.removesuffix("_gemm"), "x".join(blocks), *counts, *flags])


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
            _bytes(gpu.l2_bytes),
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
    """The fastest correct configuration of every study; predicted and measured stand apart."""
    simulated = any(study.simulated for study in run.studies)
    title = f"{run.folder}  " + (
        "SIMULATED: times are the cost model's" if simulated else "measured"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("problem", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("simulated us" if simulated else "measured us", justify="right")
    table.add_column("predicted us", justify="right")
    table.add_column("trials", justify="right")
    table.add_column("legal", justify="right")
    table.add_column("configuration", overflow="fold")
    for study in run.studies:
        best = study.best
        if best is None or best.measurement.time_us is None:
            shown = ["-", "-", str(len(study.trials)), str(study.legal_size), study.stopped]
        else:
            shown = [
                f"{best.measurement.time_us:.1f}",
                f"{best.predicted_us:.1f}",
                str(len(study.trials)),
                str(study.legal_size),
                str(best.config),
            ]
        table.add_row(str(study.problem), study.kernel, *shown)
    return table
