"""What ``workbench evaluate`` prints and writes: grids of text, the same on screen and in docs.

They are made of the JSON form, so that a stored evaluation is shown like a fresh one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Grid", "evaluation_grids", "markdown", "rich_tables"]

_NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of texts; the first column is left-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


def evaluation_grids(found: Mapping[str, Any]) -> list[Grid]:
    """All tables of an evaluation's JSON form, the aims first."""
    grids = [
        _aims(found),
        _scores(found),
        _parts(found),
        _groups(found, "errors_by_binding", "what the model holds for the limit"),
        _groups(found, "errors_by_instruction", "the tensor instruction that was compiled"),
        _slopes(found),
    ]
    if found["frozen"]:
        grids += [_frozen(found), _mended(found)]
    if found["searches"]:
        grids.insert(2, _searches(found))
    return grids


def _percent(value: float | None, digits: int = 1) -> str:
    return _NONE if value is None else f"{100 * value:.{digits}f}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _with(value: float | None, other: float | None, show: Any) -> str:
    """A value with another in brackets."""
    return _NONE if value is None else f"{show(value)} ({show(other)})"


def _joined(one: Mapping[str, Any], *names: str, digits: int = 1) -> str:
    values = [one[name] for name in names]
    return _NONE if values[0] is None else " / ".join(_percent(v, digits) for v in values)


def _aims(found: Mapping[str, Any]) -> Grid:
    regimes = list(found["aims"][0]["asked"])
    rows = []
    for aim in found["aims"]:
        cells = [aim["quantity"]]
        for regime in regimes:
            asked, value = aim["asked"][regime], aim["reached"][regime]
            sign = "<=" if aim["at_most"] else ">="
            cells.append(_NONE if asked is None else f"{sign} {_unit(asked, aim['unit'])}")
            word = {True: " (met)", False: " (not met)", None: ""}[aim["met"][regime]]
            cells.append(_NONE if value is None else _unit(value, aim["unit"]) + word)
        rows.append(cells)
    columns = [text for regime in regimes for text in (f"asked, {regime}", "reached")]
    return Grid(
        title="What was reached beside what is asked",
        columns=("quantity", *columns),
        rows=rows,
        note="A dash under `reached`: not judged; what is fitted is with `--calibrated`.",
    )


def _unit(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.3g} {unit}".strip()


def _scores(found: Mapping[str, Any]) -> Grid:
    rows = [
        (
            one["predictor"],
            {"order": "orders only", "reference": "a bound"}.get(
                one["kind"], "nothing fitted" if one["split"] is None else one["split"]
            ),
            _joined(one, "mape", "median_error", "p90_error"),
            _percent(one["bias"]),
            _with(one["spearman"], one["spearman_p10"], _number),
            _with(one["kendall"], one["kendall_p10"], _number),
            _with(one["top1"], one["top1_worst"], _percent),
            _with(one["top4"], one["top4_worst"], _percent),
            _with(one["top8"], one["top8_worst"], _percent),
            _joined(one, "recall50", "recall80", "recall90", digits=0),
            _coverage(one),
            _with(one["speedup_error"], one["speedup_sign"], _percent),
            _pace(found["pace"].get(one["predictor"])),
        )
        for one in found["scores"]
    ]
    notes = [f"Not run: {name}: {why}." for name, why in found["not_run"].items()]
    notes += [f"Split {name} not made: {why}." for name, why in found["skipped"].items()]
    counts = found["scores"][0]
    pairs = max(one["speedups"] for one in found["scores"])
    return Grid(
        title=f"Predictors on {counts['rows']} measured configurations of "
        f"{counts['of_tables']} studies",
        columns=(
            "predictor",
            "held out",
            "error: mean / median / P90, %",
            "bias, %",
            "Spearman (p10)",
            "Kendall (p10)",
            "top-1 (worst), %",
            "top-4 (worst), %",
            "top-8 (worst), %",
            "kept, 50 / 80 / 90 % dropped, %",
            "in the 90 % interval, % (bootstrap), x width",
            f"speed-up error (sign right), % of {pairs}",
            "a second",
        ),
        rows=rows,
        note=" ".join(notes),
    )


def _coverage(one: Mapping[str, Any]) -> str:
    if one["coverage"] is None:
        return _NONE
    ends = f"{_percent(one['coverage_low'])}..{_percent(one['coverage_high'])}"
    return f"{_percent(one['coverage'])} ({ends}), x {one['width']:.2f}"


def _pace(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value / 1e6:.1f} M" if value < 1e9 else "> 1000 M"


def _searches(found: Mapping[str, Any]) -> Grid:
    counts = list(found["searches"][0]["shares"])
    first = found["searches"][0]
    return Grid(
        title=f"Searches replayed on {first['tables']} studies, {first['seeds']} seeds: share of "
        "the optimum after so many measurements (worst study), %",
        columns=("strategy", *counts),
        rows=[
            (
                one["strategy"],
                *(_with(one["shares"][n], one["worst"][n], _percent) for n in counts),
            )
            for one in found["searches"]
        ],
    )


def _parts(found: Mapping[str, Any]) -> Grid:
    parts = [
        *found["cost_model_by_part"].items(),
        *((f"in view: {name}", one) for name, one in found["cost_model_in_view"].items()),
    ]
    return Grid(
        title="The cost model by family and format",
        columns=(
            "part",
            "rows",
            "error: mean / median / P90, %",
            "bias, %",
            "Spearman (p10)",
            "top-1 (worst), %",
            "top-8 (worst), %",
            "in the 90 % interval, %",
        ),
        rows=[
            (
                name,
                str(one["rows"]),
                _joined(one, "mape", "median_error", "p90_error"),
                _percent(one["bias"]),
                _with(one["spearman"], one["spearman_p10"], _number),
                _with(one["top1"], one["top1_worst"], _percent),
                _with(one["top8"], one["top8_worst"], _percent),
                _percent(one["coverage"]),
            )
            for name, one in parts
        ],
        note="`in view`: the model's constants were set with these times in view; judged apart.",
    )


def _groups(found: Mapping[str, Any], key: str, by: str) -> Grid:
    return Grid(
        title=f"Errors of the cost model by {by}",
        columns=("family", "group", "rows", "studies", "MAPE, %", "bias, %"),
        rows=[
            (
                one["kernel"],
                one["group"],
                str(one["rows"]),
                str(one["tables"]),
                _percent(one["mape"]),
                _percent(one["bias"]),
            )
            for one in found[key]
        ],
    )


def _slopes(found: Mapping[str, Any]) -> Grid:
    return Grid(
        title="What the cost model's errors within a study go along with",
        columns=("family", "field, doubled or switched on", "measured / predicted, %", "explains"),
        rows=[
            (
                one["kernel"],
                one["quantity"],
                f"{one['percent']:+.1f} ± {one['stderr']:.1f}",
                f"{_percent(one['explained'], 0)} %",
            )
            for one in found["slopes"]
        ],
        note="Least squares on all fields at once; ± from leaving out a study at a time; "
        "`explains`: share of the variance within studies that the field alone explains.",
    )


def _frozen(found: Mapping[str, Any]) -> Grid:
    chosen = [one for one in found["frozen"] if (one["model"], one["shapes"]) == ("frozen", "all")]
    return Grid(
        title="Measured after the model was frozen",
        columns=(
            "family",
            "mode",
            "rows",
            "studies",
            "predicted, us",
            "measured, us",
            "error: mean / median / P90, %",
            "bias, %",
            "Spearman",
            "top-1 (worst), %",
            "in the 90 % interval, %",
        ),
        rows=[
            (
                one["family"],
                one["mode"] or "all",
                str(one["rows"]),
                str(one["tables"]),
                f"{one['predicted_us']:.1f}",
                f"{one['measured_us']:.1f}",
                _joined(one, "mape", "median_error", "p90_error"),
                _percent(one["bias"]),
                _number(one["spearman"]),
                _with(one["top1"], one["top1_worst"], _percent),
                _percent(one["covered"], 0),
            )
            for one in chosen
        ],
        note="What the sweeps predicted before they measured, nothing mended since; times are "
        "geometric means over the rows. Searches chose these rows by the same predictions: "
        "Spearman is the median over studies of four rows and more, top-1 the best that was "
        "measured over the time of the one predicted fastest.",
    )


def _mended(found: Mapping[str, Any]) -> Grid:
    parts = {(o["family"], o["mode"], o["shapes"], o["model"]): o for o in found["frozen"]}
    rows = []
    for family, mode in dict.fromkeys((o["family"], o["mode"]) for o in found["frozen"]):
        cells = [family, mode or "all"]
        for shapes in ("set on", "held out"):
            for model in ("frozen", "now"):
                one = parts.get((family, mode, shapes, model))
                if model == "frozen":
                    cells.append(_NONE if one is None else str(one["rows"]))
                cells.append(
                    _NONE if one is None else f"{_percent(one['mape'])} ({_percent(one['bias'])})"
                )
        rows.append(cells)
    return Grid(
        title="The same rows, before and after constants were set on half of their shapes",
        columns=(
            "family",
            "mode",
            "rows, shapes set on",
            "frozen: MAPE (bias), %",
            "now",
            "rows, shapes held out",
            "frozen: MAPE (bias), %",
            "now",
        ),
        rows=rows,
        note="Which shapes these are stands in the set's card. `now` is the model as it is.",
    )


def markdown(grid: Grid) -> str:
    """A grid as a Markdown section."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    lines = [
        f"### {grid.title}",
        "",
        line(grid.columns),
        line(["---", *["---:"] * (len(grid.columns) - 1)]),
        *map(line, grid.rows),
    ]
    return "\n".join([*lines, *(["", grid.note] if grid.note else [])])


def rich_tables(grids: Sequence[Grid]) -> "Iterable[Table]":
    """Grids for a terminal."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    for grid in grids:
        table = Table(
            title=escape(grid.title),
            title_justify="left",
            caption=escape(grid.note) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for index, name in enumerate(grid.columns):
            table.add_column(
                name, justify="right" if index else "left", overflow="fold", no_wrap=not index
            )
        for row in grid.rows:
            table.add_row(*map(escape, row))
        yield table
