"""Cards, rows and coverage as text."""

from collections.abc import Sequence

from bench.accuracy.coverage import Coverage
from bench.accuracy.record import Row, Status
from bench.accuracy.task import Card

__all__ = ["card_table", "coverage_table", "row_text"]


def _tokens(card: Card) -> str:
    parts = [
        f"{side} {t.mean:g} of at most {t.limit} ({t.truncated} of {t.texts} cut)"
        for side, t in card.tokens.items()
    ]
    return "; ".join(parts)


def card_table(cards: Sequence[Card]) -> str:
    """Markdown: what each pair is made of."""
    lines = [
        "| pair | model | parameters | metric | samples | chance | mean tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        chance = "" if card.chance is None else f"{card.chance:.3f}"
        lines.append(
            f"| {card.name} | {card.architecture} | {card.parameters:,} | {card.metric} "
            f"| {card.samples} | {chance} | {_tokens(card)} |"
        )
    return "\n".join(lines)


def row_text(row: Row, criterion: float, what: str) -> str:
    """One line for a row."""
    head = f"{row.pair}  {row.recipe}{' tuned' if row.tuned else ''}"
    if row.status is not Status.SCORED or row.score is None:
        return f"{head}: {row.status.value}: {row.reason}"
    kept = ", kept" if what == "kept" else f", {row.seconds:.1f} s"
    if row.recipe == "fp32" or row.change is None:
        return f"{head}: {row.score:.4f}{kept}"
    verdict = "within" if row.within(criterion) else "lost"
    twin = ""
    if row.apart is not None and row.noise is not None:
        twin = f", outputs {row.apart:.2g} from the CPU's, where quantising costs {row.noise:.2g}"
    return f"{head}: {row.score:.4f}, {100 * row.change:+.2f} % ({verdict}){twin}{kept}"


def coverage_table(coverages: Sequence[Coverage], criterion: float) -> str:
    """Markdown: the share of pairs within the criterion, by recipe and family."""
    if not coverages:
        return ""
    families = list(dict.fromkeys(one.family for one in coverages))
    lines = [
        f"Pairs that lose at most {100 * criterion:g} % of their fp32 score; "
        "what was refused or failed counts as lost.",
        "",
        "| recipe | scheme | " + " | ".join(family or "all" for family in families) + " | worst |",
        "|" + "---|" * (len(families) + 3),
    ]
    groups: dict[tuple[str, str, bool], dict[str, Coverage]] = {}
    for one in coverages:
        groups.setdefault((one.recipe, one.scheme, one.tuned), {})[one.family] = one
    for (recipe, scheme, tuned), parts in groups.items():
        cells = [
            f"{100 * part.share:.1f} % ({part.passed}/{part.pairs})"
            if (part := parts.get(family)) is not None
            else ""
            for family in families
        ]
        worst = parts[""].worst_change
        shown = "" if worst is None else f"{100 * worst:+.1f} %"
        kind = f"{scheme}, tuned" if tuned else scheme
        lines.append(f"| {recipe} | {kind} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)
