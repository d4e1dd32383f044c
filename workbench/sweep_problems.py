"""The problems that a sweep file's entries come to."""

from collections.abc import Iterator, Sequence

from tiles.problems import Gemm, Problem, Quantize, parse_problem
from tiles.recipes import Recipe
from workbench.models import gemm_shapes
from workbench.sweep_entries import AnyEntry, ModelEntry, ProblemEntry, ShapeEntry

__all__ = ["problems_of"]

MAX_PROBLEMS = 20_000


def problems_of(
    entries: Sequence[AnyEntry], recipes: Sequence[Recipe], *, out: str, quantize: bool
) -> Iterator[Problem]:
    """Products, quantisations and other problems in order of the file, each once.

    Args:
        out: element format of products.
        quantize: whether the quantisations of their activations go with them.
    Raises:
        ValueError: a model's file cannot be used, or there are too many; the message says where.
    """
    seen: set[Problem] = set()
    for index, entry in enumerate(entries):
        try:
            for problem in _wanted(entry, recipes, out, quantize):
                if problem not in seen:
                    seen.add(problem)
                    yield problem
                if len(seen) > MAX_PROBLEMS:
                    raise ValueError(
                        f"the file comes to more than {MAX_PROBLEMS} problems: split it"
                    )
        except ValueError as error:
            raise ValueError(f"problems[{index}]: {error}") from error


def _wanted(
    entry: AnyEntry, recipes: Sequence[Recipe], out: str, quantize: bool
) -> Iterator[Problem]:
    """What one entry asks for."""
    if isinstance(entry, ProblemEntry):
        yield parse_problem(entry.problem)
        return
    for m, n, k in _shapes(entry):
        yield from (Gemm(m=m, n=n, k=k, recipe=r, out=out) for r in recipes)
        if quantize:
            # Setting outliers apart is more than quantising, and has no kernel.
            yield from (
                Quantize(rows=m, cols=k, target=r.activation)
                for r in recipes
                if r.quantized and r.outliers is None
            )


def _shapes(entry: ModelEntry | ShapeEntry) -> list[tuple[int, int, int]]:
    """(M, N, K) of an entry's products."""
    if isinstance(entry, ShapeEntry):
        m, n, k = entry.shape
        return [(m, n, k)]
    return [(s.m, s.n, s.k) for s in gemm_shapes(entry.model, entry.tokens, entry.tp)]
