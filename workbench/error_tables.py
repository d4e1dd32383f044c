"""What ``workbench error`` prints."""

import math
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from workbench.errors import ErrorReport
from workbench.printable import printable
from workbench.weight_report import LayerStatus, WeightReport

__all__ = ["error_tables"]

#: Layers and reasons that a terminal shows; ``--json`` and ``--html`` have all.
MAX_LISTED = 60
#: Formats, best first, that have a column of their own beside the layers.
MAX_FORMATS = 8


def error_tables(report: ErrorReport) -> Iterator[Table | Text]:
    """Tables of a report: tensors and products by kind of data, or a checkpoint's ranking."""
    if report.weights is not None:
        yield from _weight_tables(report.weights)
        return
    for data in dict.fromkeys(row.data for row in report.tensors):
        yield _tensor_table(report, data)
        if report.products:
            yield _product_table(report, data)


def _db(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if math.isfinite(value) else "exact"


def _share(value: float) -> str:
    """A share in percent; what is not zero does not look like it."""
    return "0" if value == 0 else f"{100 * value:.3g}"


def _tensor_table(report: ErrorReport, data: str) -> Table:
    assert report.shape is not None
    assert report.weight_shape is not None
    shapes = ["x".join(map(str, shape)) for shape in (report.shape, report.weight_shape)]
    title = f"{data} data  activations {shapes[0]}, weights {shapes[1]}"
    rows = [row for row in report.tensors if row.data == data]
    if any(row.operand == "gradient" for row in rows):
        title += "\ngradients: the activations' values in the gradients' formats"
    table = Table(title=title, title_justify="left")
    for name in ("recipe", "operand", "format"):
        table.add_column(name, no_wrap=True)
    for name in (
        "bits per\nelement",
        "SQNR dB",
        "expected\nSQNR dB",
        "relative\nerror, max",
        "relative\nerror, mean",
        "clipped %",
        "flushed %",
    ):
        table.add_column(name, justify="right")
    before = None
    for row in rows:
        same = [r for r in rows if (r.recipe, r.format) == (row.recipe, row.format)]
        same = [r for r in same if r.error is row.error]
        if same[0] is not row:
            continue  # named with the operand of the same data and format
        name = row.recipe or "-"
        table.add_row(
            "" if name == before else name,
            ", ".join(r.operand for r in same),
            str(row.format) if row.outliers is None else f"{row.format}\n{row.outliers}",
            f"{row.bits_per_element:.3f}",
            _db(row.error.sqnr_db),
            _db(row.expected_sqnr_db),
            f"{row.error.relative_max:.3g}",
            f"{row.error.relative_mean:.3g}",
            _share(row.error.clipped_share),
            _share(row.error.flushed_share),
        )
        before = name
    return table


def _product_table(report: ErrorReport, data: str) -> Table:
    m, n, k = report.product_shape
    title = f"{data} data  products, M={m} N={n} K={k}\nfirst rows of either side"
    table = Table(title=title, title_justify="left")
    for name in ("recipe", "sums"):
        table.add_column(name, no_wrap=True)
    for name in ("SQNR dB", "relative rms", "max over rms"):
        table.add_column(name, justify="right")
    table.add_column("output", no_wrap=True)
    table.add_column("SQNR dB with\noutput rounded", justify="right")
    for row in report.products:
        if row.data == data:
            table.add_row(
                row.recipe,
                row.error.accumulation,
                _db(row.error.sqnr_db),
                f"{row.error.relative_rms:.3g}",
                f"{row.error.relative_max:.3g}",
                str(row.output),
                _db(row.output_error.sqnr_db),
            )
    return table


def _weight_tables(report: WeightReport) -> Iterator[Table | Text]:
    # Text, never strings, for what comes from the file: rich reads markup in strings.
    name = printable(report.path.name)
    ranking = Table(title=Text(f"{name}  formats over all layers"), title_justify="left")
    ranking.add_column("format", no_wrap=True)
    for heading in ("bits per\nelement", "SQNR dB", "worst\nlayer dB"):
        ranking.add_column(heading, justify="right")
    ranking.add_column("worst layer", overflow="fold")
    ranking.add_column("best on\nlayers", justify="right")
    rows = report.ranking()
    for row in rows:
        ranking.add_row(
            str(row.format),
            f"{row.bits_per_element:.3f}",
            _db(row.sqnr_db),
            _db(row.worst_db),
            Text(printable(row.worst_layer)),
            f"{row.best} of {row.layers}",
        )
    if rows:
        yield ranking
        yield _layer_table(report)
    bare = [layer.tensor for layer in report.ranked if layer.tensor.note]
    if bare:
        yield Text(f"{bare[0].note}: {_names([tensor.name for tensor in bare])}")
    others = [layer for layer in report.layers if layer.status is not LayerStatus.RANKED]
    others.sort(key=lambda layer: layer.status is LayerStatus.SKIPPED)
    groups: dict[str, list[str]] = {}
    for layer in others:
        groups.setdefault(f"{layer.status.value}: {layer.reason}", []).append(layer.tensor.name)
    for why, names in groups.items():
        yield Text(f"{why}: {_names(names)}")
    partly = {
        f"{one.format}: {printable(layer.tensor.name)}: {one.reason}"
        for layer in report.ranked
        for one in layer.errors
        if one.reason
    }
    for line in sorted(partly)[:MAX_LISTED]:
        yield Text(line)
    if len(partly) > MAX_LISTED:
        yield Text("more reasons: --json or --html page.html")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(map(printable, names[:3]))}{more}"


def _layer_table(report: WeightReport) -> Table:
    layers = report.ranked
    title = "SQNR dB by layer"
    if len(layers) > MAX_LISTED:
        title += f", the first {MAX_LISTED} of {len(layers)}: all with --json or --html page.html"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    table.add_column("type and shape", no_wrap=True)
    table.add_column("best", no_wrap=True)
    shown = [row.format for row in report.ranking()[:MAX_FORMATS]]
    for fmt in shown:
        table.add_column(str(fmt).replace(".", "\n."), justify="right")
    for layer in layers[:MAX_LISTED]:
        errors = [one for one in layer.errors if one.error is not None]
        best = max(errors, key=lambda one: one.error.sqnr_db if one.error else -math.inf)
        by_format = {one.format: one.error.sqnr_db for one in errors if one.error is not None}
        table.add_row(
            Text(printable(layer.tensor.name)),
            layer.tensor.kind,
            str(best.format),
            *(_db(by_format.get(fmt)) for fmt in shown),
        )
    return table
