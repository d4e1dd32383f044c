"""The generated section of ``docs/cost-model.md``; its plots and the evaluation beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sim
from tiles.regular_file import check_regular
from workbench.evaluation_report import EVALUATION_SCHEMA, Evaluation
from workbench.evaluation_tables import evaluation_grids
from workbench.grid import markdown
from workbench.outfile import check_outfile, unwritable, write_outfile

__all__ = ["BEGIN", "END", "STORED", "check_page", "section", "with_section", "write_page"]

BEGIN = "<!-- begin: made by `workbench evaluate --write`, do not edit -->"
END = "<!-- end -->"
#: Name of the evaluation's JSON in the folder beside the page.
STORED = "evaluation.json"


def section(found: Mapping[str, Any], plots: Mapping[str, str], folder: str) -> str:
    """The text between the marks, of an evaluation's JSON form.

    Args:
        plots: where a plot is missing its line is left out.
        folder: of the plots, as the page names it.
    """
    sets = "\n".join(
        f"* `{one['path']}`: {one['tables']} studies, {one['rows']} configurations, "
        f"{one['judged']} of them judged"
        + ", apart: a search chose them by predictions" * one["chosen_by_predictions"]
        + "".join(f"; left out: {line}" for line in one["left_out"])
        for one in found["sets"]
    )
    pictures = [f"![{name}]({folder}/{name})" for name in plots]
    grids = [markdown(grid) for grid in evaluation_grids(found)]
    return "\n\n".join([f"GPU: {found['gpu']}. Data:", sets, *grids, *pictures])


def with_section(text: str, new: str, path: Path) -> str:
    """A page with the text between its marks replaced.

    Raises:
        ValueError: the page does not have both marks, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(
            f"{path}: holds no section to replace: put the lines {BEGIN} and {END} where it goes"
        )
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def check_page(path: Path) -> None:
    """Refuse a page that could not be written, before any work is done for it.

    Raises:
        ValueError: no such page, a device or a pipe, no text, or one without marks.
    """
    check_regular(path)
    with_section(_read(path), "", path)
    check_outfile(_folder(path) / STORED, EVALUATION_SCHEMA)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no such page: make one with the lines {BEGIN} and {END}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(
            f"{path}: cannot be read as text ({reason}): name a Markdown page"
        ) from error


def _folder(path: Path) -> Path:
    return path.with_suffix("")


def write_page(path: Path, evaluation: Evaluation, gpu: sim.Gpu) -> None:
    """Renew the page's section, its plots and the stored evaluation.

    Raises:
        ValueError: as :func:`check_page`, or something cannot be written.
    """
    from workbench.evaluation_plots import evaluation_plots

    tables = [table for one in evaluation.sets if not one.foretold for table in one.tables]
    plots = evaluation_plots(tables, gpu)
    folder = _folder(path)
    found = evaluation.to_dict()
    text = with_section(_read(path), section(found, plots, folder.name), path)
    write_outfile(folder / STORED, json.dumps(found, indent=1, allow_nan=False) + "\n")
    for name, drawing in plots.items():
        _replace(folder / name, drawing)
    _replace(path, text)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with unwritable(path):
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
