"""What ``workbench evaluate`` prints and writes: grids of text, the same on screen and in docs.

They are made of the JSON form, so that a stored evaluation is shown like a fresh one.
"""

from collections.abc import Mapping
from typing import Any

from workbench.evaluation_frozen_tables import frozen_grid, mended_grid
from workbench.grid import NONE, Grid, beside, joined, number, percent

__all__ = ["evaluation_grids"]


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
        grids += [frozen_grid(found), mended_grid(found)]
    if found["searches"]:
        grids.insert(2, _searches(found))
    return grids


def _aims(found: Mapping[str, Any]) -> Grid:
    regimes = list(found["aims"][0]["asked"])
    rows = []
    for aim in found["aims"]:
        cells = [aim["quantity"]]
        for regime in regimes:
            asked, value = aim["asked"][regime], aim["reached"][regime]
            sign = "<=" if aim["at_most"] else ">="
            cells.append(NONE if asked is None else f"{sign} {_unit(asked, aim['unit'])}")
            word = {True: " (met)", False: " (not met)", None: ""}[aim["met"][regime]]
            cells.append(NONE if value is None else _unit(value, aim["unit"]) + word)
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
            joined(one, "mape", "median_error", "p90_error"),
            percent(one["bias"]),
            beside(one["spearman"], one["spearman_p10"], number),
            beside(one["kendall"], one["kendall_p10"], number),
            beside(one["top1"], one["top1_worst"], percent),
            beside(one["top4"], one["top4_worst"], percent),
            beside(one["top8"], one["top8_worst"], percent),
            joined(one, "recall50", "recall80", "recall90", digits=0),
            _coverage(one),
            beside(one["speedup_error"], one["speedup_sign"], percent),
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
        return NONE
    ends = f"{percent(one['coverage_low'])}..{percent(one['coverage_high'])}"
    return f"{percent(one['coverage'])} ({ends}), x {one['width']:.2f}"


def _pace(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value / 1e6:.1f} M" if value < 1e9 else "> 1000 M"


def _searches(found: Mapping[str, Any]) -> Grid:
    counts = list(found["searches"][0]["shares"])
    tables, seeds = (max(one[name] for one in found["searches"]) for name in ("tables", "seeds"))
    return Grid(
        title=f"Searches replayed on {tables} studies, {seeds} seeds if any: share of "
        "the optimum in a search of so many measurements (worst study), %",
        columns=("strategy, by what is told", *counts),
        rows=[
            (
                f"{one['strategy']}, {one['predictor']}",
                *(beside(one["shares"][n], one["worst"][n], percent) for n in counts),
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
                joined(one, "mape", "median_error", "p90_error"),
                percent(one["bias"]),
                beside(one["spearman"], one["spearman_p10"], number),
                beside(one["top1"], one["top1_worst"], percent),
                beside(one["top8"], one["top8_worst"], percent),
                percent(one["coverage"]),
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
                percent(one["mape"]),
                percent(one["bias"]),
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
                f"{percent(one['explained'], 0)} %",
            )
            for one in found["slopes"]
        ],
        note="Least squares on all fields at once; ± from leaving out a study at a time; "
        "`explains`: share of the variance within studies that the field alone explains.",
    )
