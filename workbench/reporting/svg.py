"""Static plots for documents: points, lines and bars on two axes, written as SVG."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from workbench.reporting.axes import even_ticks, log_ticks, scale

__all__ = ["Bars", "Points", "bar_chart", "plot"]

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 60
_INK, _GRID, _GREY = "#1c2128", "#dfe4ea", "#888888"


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """One series: points, a line through them, or both."""

    name: str
    colour: str
    xy: Sequence[tuple[float, float]]
    line: bool = False
    marks: bool = True
    size: float = 2.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars under one heading: name, value and colour."""

    title: str
    bars: Sequence[tuple[str, float, str]]


def _head(width: int, height: int, title: str) -> list[str]:
    # A white page of its own: documents are read on dark ones too.
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 22, title, weight="600"),
    ]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "", turn: bool = False
) -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{bold}{turned}>{escape(text)}</text>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"{dashed}/>'
    )


def plot(
    title: str,
    series: Sequence[Points],
    *,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[tuple[float, str]] = (),
    log: bool = False,
    diagonal: bool = False,
    level: float | None = None,
) -> str:
    """Series on two axes as the text of an SVG file.

    Args:
        x_ticks: places on the x axis and what they are called; by number when empty.
        log: both axes by decades.
        diagonal: draw x = y.
        level: draw a dashed line at this y.

    Raises:
        ValueError: no point at all, or one that is not positive on an axis by decades.
    """
    points = [point for one in series for point in one.xy]
    if not points:
        raise ValueError(f"{title}: no point to draw")
    if log and min(min(point) for point in points) <= 0:
        raise ValueError(f"{title}: a point is not positive")
    x_low, x_high, x_at = scale([x for x, _ in points], LEFT, WIDTH - RIGHT, log=log)
    ys = [y for _, y in points] + ([] if level is None else [level])
    y_low, y_high, y_at = scale(ys if log else [0.0, *ys], HEIGHT - BOTTOM, TOP, log=log)
    ticks = log_ticks if log else even_ticks
    named = x_ticks or [(tick, f"{tick:g}") for tick in ticks(x_low, x_high)]
    parts = _head(WIDTH, HEIGHT, title)
    for place, name in named:
        parts.append(_line(x_at(place), TOP, x_at(place), HEIGHT - BOTTOM, _GRID))
        parts.append(_text(x_at(place), HEIGHT - BOTTOM + 16, name, anchor="middle"))
    for tick in ticks(y_low, y_high):
        parts.append(_line(LEFT, y_at(tick), WIDTH - RIGHT, y_at(tick), _GRID))
        parts.append(_text(LEFT - 6, y_at(tick) + 4, f"{tick:g}", anchor="end"))
    if diagonal:
        low, high = max(x_low, y_low), min(x_high, y_high)
        parts.append(_line(x_at(low), y_at(low), x_at(high), y_at(high), _GREY, "5 4"))
    if level is not None:
        parts.append(_line(LEFT, y_at(level), WIDTH - RIGHT, y_at(level), _GREY, "5 4"))
    for one in series:
        parts += _drawn(one, x_at, y_at)
    parts += _legend(series, TOP + 6)
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_title, anchor="middle"))
    parts.append(_text(18, (TOP + HEIGHT - BOTTOM) / 2, y_title, anchor="middle", turn=True))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(
    one: Points, x_at: Callable[[float], float], y_at: Callable[[float], float]
) -> Iterable[str]:
    if one.line:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in one.xy)
        yield f'<polyline points="{path}" fill="none" stroke="{one.colour}" stroke-width="2"/>'
    if one.marks:
        marks = "".join(
            f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="{one.size}"/>' for x, y in one.xy
        )
        yield f'<g fill="{one.colour}" fill-opacity="0.6" stroke="{one.colour}">{marks}</g>'


def _legend(series: Sequence[Points], top: float) -> Iterable[str]:
    """Names beside a stroke or a mark, as the series is drawn."""
    for index, one in enumerate(series):
        y = top + 16 * index + 5
        if one.line:
            yield _line(LEFT + 8, y, LEFT + 22, y, one.colour)
        if one.marks:
            yield f'<circle cx="{LEFT + 15}" cy="{y:.1f}" r="4" fill="{one.colour}"/>'
        yield _text(LEFT + 28, y + 4, one.name)


def bar_chart(title: str, groups: Sequence[Bars], *, x_title: str) -> str:
    """Horizontal bars in groups, each on an axis of its own, as the text of an SVG file.

    Raises:
        ValueError: no bar at all.
    """
    if not any(group.bars for group in groups):
        raise ValueError(f"{title}: no bar to draw")
    row, gap, label = 16, 34, 190
    height = TOP + 30 + sum(gap + row * len(group.bars) for group in groups)
    parts = _head(WIDTH, height, title)
    y = float(TOP)
    for group in groups:
        y += gap - 10
        parts.append(_text(LEFT, y, group.title, weight="600"))
        y += 8
        most = max((value for _, value, _ in group.bars), default=1.0)
        for name, value, colour in group.bars:
            length = (WIDTH - RIGHT - label - 60) * value / most
            parts.append(_text(label - 8, y + 11, name, anchor="end"))
            parts.append(
                f'<rect x="{label}" y="{y + 2:.1f}" width="{length:.1f}" height="{row - 5}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(label + length + 6, y + 11, f"{value:.3g}"))
            y += row
        y += 2
    parts.append(_text(LEFT, height - 10, x_title))
    return "\n".join([*parts, "</svg>"]) + "\n"
