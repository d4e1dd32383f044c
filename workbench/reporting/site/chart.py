"""Plots of the site: SVG in the page's own colours, with words for who cannot see them."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from workbench.reporting.axes import even_ticks, log_ticks, scale
from workbench.reporting.download import data_link

__all__ = ["PALETTE", "Chart", "Marks", "Point", "bars", "scatter"]

#: Kernel families and whatever else has no colour of its own.
PALETTE = ("#4292c6", "#f0831e", "#3fa85b", "#c2255c", "#9a76c2", "#a1662f", "#4f9a94", "#8a8f98")
#: Units of the drawing; a phone shows it at 0.8 of these, so text stays legible.
WIDTH, HEIGHT = 420, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 10, 44
_FONT = 12
#: Width of a letter and height of a line, for names that must not lie on one another.
_LETTER, _LINE = 6.3, 12.0
#: Width of a digit in the widest font that a page may get, and what the y axis's title takes.
_DIGIT, _TITLE = 7.7, 20

Place = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mark."""

    x: float
    y: float
    tip: str = ""  #: told when pointed at
    name: str = ""  #: written beside it where there is room


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """One series of marks, and a line in the legend."""

    name: str
    colour: str
    points: Sequence[Point]
    hollow: bool = False  #: predicted, beside others that are measured
    size: float = 5.0
    faint: bool = False  #: beaten by others


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawn plot with its words and its data."""

    key: str  #: element id, letters, digits and dashes
    title: str
    description: str  #: what is to be seen, in a sentence
    svg: str
    data: str  #: CSV of everything plotted
    legend: Sequence[tuple[str, str, bool]] = ()  #: name, colour, hollow
    notes: Sequence[str] = ()  #: plain text below it

    def html(self) -> str:
        """The plot as an element of a page."""
        legend = "".join(
            f'<li><i class="{"hollow" if hollow else ""}" style="--of:{colour}"></i>'
            f"{html.escape(name)}</li>"
            for name, colour, hollow in self.legend
        )
        if legend:
            legend = f'<ul class="legend">{legend}</ul>'
        notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in self.notes)
        svg = self.svg.replace(
            "<svg ",
            f'<svg id="{self.key}" role="img" aria-labelledby="{self.key}-title {self.key}-desc" ',
            1,
        ).replace(
            ">",
            f'><title id="{self.key}-title">{html.escape(self.title)}</title>'
            f'<desc id="{self.key}-desc">{html.escape(self.description)}</desc>',
            1,
        )
        data = data_link(self.key, self.data, self.title)
        return (
            f'<div class="chart"><h3>{html.escape(self.title)}</h3>{legend}{svg}{notes}{data}</div>'
        )


def scatter(
    series: Sequence[Marks],
    *,
    x_title: str,
    y_title: str,
    x_log: bool = False,
    diagonal: bool = False,
    level: float | None = None,
) -> str:
    """Marks on two axes.

    Args:
        x_log: the x axis by decades.
        diagonal: both axes by decades and of the same range, and a dashed line where x = y.
        level: draw a dashed line at this y.

    Raises:
        ValueError: no mark at all.
    """
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("no mark to draw")
    xs, ys = [p.x for p in points], [p.y for p in points]
    if diagonal:
        xs = ys = [*xs, *ys]
    elif level is not None:
        ys = [*ys, level]
    y_low, y_high, y_at = scale(ys, HEIGHT - BOTTOM, TOP, log=diagonal)
    y_ticks = _ticks(y_low, y_high, log=diagonal)
    left = _left(y_ticks)
    x_low, x_high, x_at = scale(xs, left, WIDTH - RIGHT, log=x_log or diagonal)
    x_ticks = _ticks(x_low, x_high, log=x_log or diagonal)
    parts = [_frame(HEIGHT)]
    for tick in x_ticks:
        parts.append(_line(x_at(tick), TOP, x_at(tick), HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x_at(tick), HEIGHT - BOTTOM + 15, _number(tick), anchor="middle"))
    for tick in y_ticks:
        parts.append(_line(left, y_at(tick), WIDTH - RIGHT, y_at(tick), "grid"))
        parts.append(_text(left - 6, y_at(tick) + 4, _number(tick), anchor="end"))
    if diagonal:
        parts.append(_line(x_at(x_low), y_at(x_low), x_at(x_high), y_at(x_high), "mark"))
    if level is not None:
        parts.append(_line(left, y_at(level), WIDTH - RIGHT, y_at(level), "mark"))
    for one in series:
        parts += _marks(one, x_at, y_at)
    parts += _names(series, x_at, y_at, left)
    parts.append(_text((left + WIDTH - RIGHT) / 2, HEIGHT - 8, x_title, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        '<text class="soft" text-anchor="middle" '
        f'transform="translate(13 {middle:.1f}) rotate(-90)">'
        f"{html.escape(y_title)}</text>"
    )
    return "".join([*parts, "</svg>"])


def bars(rows: Sequence[tuple[str, float, str]], *, unit: str) -> str:
    """Horizontal bars, each with its name above it, as long names ask for on a phone.

    Args:
        rows: name, value not below 0, colour.

    Raises:
        ValueError: no bar at all.
    """
    if not rows:
        raise ValueError("no bar to draw")
    most = max(value for _, value, _ in rows) or 1.0
    step = 34
    parts = [_frame(step * len(rows) + 4)]
    for place, (name, value, colour) in enumerate(rows):
        y = step * place + 12
        length = (WIDTH - 80) * value / most
        parts.append(_text(2, y, name))
        parts.append(
            f'<rect x="2" y="{y + 5}" width="{length:.1f}" height="12" rx="2" fill="{colour}"/>'
        )
        parts.append(_text(length + 8, y + 15, f"{_number(value)} {unit}", kind="soft"))
    return "".join([*parts, "</svg>"])


def _frame(height: int) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" font-size="{_FONT}">'


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "soft") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _number(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−")


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Few enough for their numbers not to touch: powers of ten alone over many decades."""
    if not log:
        return even_ticks(low, high)
    ticks = log_ticks(low, high)
    powers = [tick for tick in ticks if f"{tick:e}".startswith("1.0")]
    return powers if len(ticks) > 7 and len(powers) > 1 else ticks


def _marks(one: Marks, x_at: Place, y_at: Place) -> Iterator[str]:
    kind = "hollow" if one.hollow else "full"
    if one.faint:
        kind += " faint"
    yield f'<g class="{kind}" style="--of:{one.colour}">'
    for point in one.points:
        place = f'cx="{x_at(point.x):.1f}" cy="{y_at(point.y):.1f}" r="{one.size:g}"'
        if point.tip:
            yield f"<circle {place}><title>{html.escape(point.tip)}</title></circle>"
        else:
            yield f"<circle {place}/>"
    yield "</g>"


Box = tuple[float, float, float, float]


def _names(series: Sequence[Marks], x_at: Place, y_at: Place, first: float) -> Iterator[str]:
    """Names beside their marks where they touch no mark and no other name; the rest is in tips."""
    taken: list[Box] = []
    for one in series:
        for p in one.points:
            x, y = x_at(p.x), y_at(p.y)
            taken.append((x - one.size, y - one.size, x + one.size, y + one.size))
    for one in series:
        for point in one.points:
            if not point.name:
                continue
            x, y, width = x_at(point.x), y_at(point.y), _LETTER * len(point.name)
            off = one.size + 3
            for left, base in (
                (x + off, y + 4),
                (x - off - width, y + 4),
                (x - width / 2, y - off),
                (x - width / 2, y + off + 9),
                (x + 2, y - off),
                (x + 2, y + off + 9),
            ):
                box = (left, base - _LINE + 2, left + width, base + 3)
                if _inside(box, first) and not any(_touch(box, other) for other in taken):
                    taken.append(box)
                    yield _text(left, base, point.name, kind="ink")
                    break


def _left(ticks: Sequence[float]) -> float:
    """Where the plot begins: its y axis's numbers do not reach the axis's title."""
    longest = max((len(_number(tick)) for tick in ticks), default=0)
    return max(LEFT, _TITLE + _DIGIT * longest + 6)


def _inside(box: Box, first: float) -> bool:
    return box[0] >= first and box[2] <= WIDTH - 2 and box[1] >= TOP and box[3] <= HEIGHT - BOTTOM


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
