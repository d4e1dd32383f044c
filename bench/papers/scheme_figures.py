"""What a scheme of quantisation costs beside another: the same pairs under the same recipe."""

from statistics import fmean

from bench.accuracy.coverage import CRITERION
from bench.accuracy.record import Row
from bench.papers.figures import SCHEMES, Figure, Measured, rows_of

__all__ = ["compared"]

_Rows = dict[str, tuple[str, Row]]


def compared(*recipes: str, scheme: str, beside: str, families: tuple[str, ...]) -> Measured:
    """Shares and mean changes under both schemes, and the pairs that one of them alone loses.

    Of the pairs that were scored under every one of the recipes and both schemes.
    """
    found = {
        (recipe, name): rows_of(SCHEMES, recipe, families, scheme=name)
        for recipe in recipes
        for name in (scheme, beside)
    }
    scored = (
        {p for p, (_, row) in rows.items() if row.change is not None} for rows in found.values()
    )
    pairs = sorted(set.intersection(*scored))
    parts, figures = [], list[Figure]()
    for recipe in recipes:
        both = [{pair: found[recipe, name][pair] for pair in pairs} for name in (scheme, beside)]
        shares = [_share(f"{recipe}, {n}", r) for n, r in zip((scheme, beside), both, strict=True)]
        means = [_mean(f"{recipe}, {n}", r) for n, r in zip((scheme, beside), both, strict=True)]
        told = (
            f"{recipe} {shares[0].value} and {shares[1].value} of {len(pairs)}, "
            f"mean change {100 * means[0].value:+.2f} and {100 * means[1].value:+.2f} %"
        )
        apart = [
            [
                _one(f"{recipe}, {name}", *rows[pair])
                for name, rows in zip((scheme, beside), both, strict=True)
            ]
            for pair in pairs
            if both[0][pair][1].within(CRITERION) != both[1][pair][1].within(CRITERION)
        ]
        lost = [
            f"{one.what.split(' on ')[1]} {100 * one.value:+.2f} and {100 * other.value:+.2f} %"
            for one, other in apart
        ]
        parts.append(told + (f" (apart: {', '.join(lost)})" if lost else ""))
        figures += [*shares, *means, *(one for two in apart for one in two)]
    text = f"`{scheme}` and `{beside}`: {'; '.join(parts)} ([schemes][s])"
    return Measured(text=text, figures=tuple(figures))


def _share(what: str, rows: _Rows) -> Figure:
    return Figure(
        what=f"{what}: pairs that lose at most 1 %, of {len(rows)}",
        value=sum(row.within(CRITERION) for _, row in rows.values()),
        source=SCHEMES,
        at=tuple(place for place, _ in rows.values()),
        rule="within",
    )


def _mean(what: str, rows: _Rows) -> Figure:
    return Figure(
        what=f"{what}: mean change of the score over {len(rows)} pairs",
        value=fmean(row.change or 0.0 for _, row in rows.values()),
        source=SCHEMES,
        at=tuple(place for place, _ in rows.values()),
        rule="mean",
    )


def _one(what: str, place: str, row: Row) -> Figure:
    assert row.change is not None  # it was scored
    return Figure(
        what=f"{what}: change of the score on {row.pair}",
        value=row.change,
        source=SCHEMES,
        at=(place,),
        rule="value",
    )
