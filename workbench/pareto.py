"""Which of several choices no other one beats in everything."""

from collections.abc import Sequence

__all__ = ["pareto"]


def pareto(points: Sequence[Sequence[float]]) -> list[bool]:
    """Whether no other point is at least as small in every coordinate and smaller in one.

    Args:
        points: of one length, smaller is better; equal points do not beat one another.
    """

    def beaten(mine: Sequence[float]) -> bool:
        return any(
            all(its <= own for its, own in zip(other, mine, strict=True))
            and list(other) != list(mine)
            for other in points
        )

    return [not beaten(point) for point in points]
