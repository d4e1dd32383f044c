"""What ``workbench predict --network`` prints: times, parts and memory per recipe."""

from collections.abc import Iterable

from rich.table import Table

from sim.network import Memory, Part, Phase, Span
from workbench.networks import NetworkReport, NetworkRow

__all__ = ["network_tables"]

_MEMORY = ("weights", "gradients", "optimizer", "activations", "working", "total")


def _ms(span: Span) -> str:
    return f"{span.time_us / 1e3:.2f}" if span.time_us else "-"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("recipe", no_wrap=True)
    table.add_column("path")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _times(report: NetworkReport, title: str) -> Table:
    phases = list(Phase) if report.training else [Phase.FORWARD]
    names = {Phase.FORWARD: "forward", Phase.BACKWARD: "backward", Phase.UPDATE: "optimizer"}
    heads = [*(f"{names[phase]} ms" for phase in phases), "forward\n+ backward ms", "90 % interval"]
    if not report.training:
        heads = ["forward ms", "90 % interval"]
    parts = [part for part in Part if any(part in row.cost.parts for row in report.rows)]
    parts = [part for part in parts if part is not Part.OPTIMIZER]
    table = _table(f"{title}\ntime, predicted, not measured", [*heads, "x bf16", *_labels(parts)])
    for row in report.rows:
        passes = row.passes
        spans = [_ms(row.cost.span(phase)) for phase in phases]
        if report.training:
            spans.append(_ms(passes))
        table.add_row(
            row.cost.recipe.name,
            row.cost.path.value,
            *spans,
            f"{passes.low_us / 1e3:.2f}-{passes.high_us / 1e3:.2f}",
            _ratio(row.speedup),
            *(_ms(row.cost.span(part=part)) for part in parts),
        )
    return table


def _labels(parts: Iterable[Part]) -> list[str]:
    return [f"{part.value}\nms" for part in parts]


def _unit(rows: Iterable[NetworkRow]) -> tuple[str, int]:
    """Name and bytes of the unit in which a table of memory is easy to read."""
    most = max((row.cost.memory.total for row in rows), default=0)
    return ("GiB", 2**30) if most >= 20 * 2**30 else ("MiB", 2**20)


def _amount(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}" if value else "-"


def _memory_cells(memory: Memory, shown: list[str], size: int) -> list[str]:
    return [_amount(getattr(memory, name) / size) for name in shown]


def _memory(report: NetworkReport, title: str) -> Table:
    training = report.training
    shown = [n for n in _MEMORY if training or n in ("weights", "working", "total")]
    unit, size = _unit(report.rows)
    heads = [f"{name}\n{unit}" for name in shown]
    ratios = ["x bf16\ntotal", "x bf16\nper step"] if training else ["x bf16\ntotal"]
    table = _table(f"{title}\nmemory, predicted", [*heads, *ratios])
    for row in report.rows:
        found = [row.memory_ratio, row.step_memory_ratio][: len(ratios)]
        table.add_row(
            row.cost.recipe.name,
            row.cost.path.value,
            *_memory_cells(row.cost.memory, shown, size),
            *map(_ratio, found),
        )
    return table


def network_tables(report: NetworkReport) -> tuple[Table, Table]:
    """Times with their parts, and memory; every figure is predicted.

    Parts are those of forward and backward together; *per step* is what a step allocates above
    weights, gradients and optimiser state.
    """
    kind = "training" if report.training else "inference"
    batch = f"{report.batch.sequences} x {report.batch.length} tokens"
    layers = "1 layer" if report.layers == 1 else f"{report.layers} layers"
    title = f"{report.gpu}  {report.model}, {layers}, {batch}, {kind}"
    return _times(report, title), _memory(report, title)
