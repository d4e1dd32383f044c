"""Tables that are computed once a device, and that compiled graphs share."""

from collections.abc import Callable, Hashable
from functools import cache
from types import SimpleNamespace

import torch

from tiles.formats.catalogue import element
from tiles.formats.elements import ElementFormat

__all__ = ["held_tensor"]

#: Every table, each under a name of its own: where a compiled graph finds its input.
_HELD = SimpleNamespace()


def held_tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate a function of hashable arguments, so that it is run once for each of them.

    Under ``torch.compile`` it is run while the graph is traced, and the graph takes the tensor as
    an input: as a constant, dynamo would mix up the tables of one function.  A format, which must
    come first, is then known by its name, so it must be one that :func:`tiles.formats.element`
    finds.
    """

    @cache
    def hold(first: ElementFormat | str | int, *arguments: Hashable) -> str:
        name = f"{make.__name__}_{len(vars(_HELD))}"
        setattr(_HELD, name, make(element(first) if isinstance(first, str) else first, *arguments))
        return name

    def name_of(first: ElementFormat | str | int, *arguments: Hashable) -> str:
        return hold(first, *arguments)

    # What ``torch.compiler.assume_constant_result`` does; calling that would load the compiler,
    # which takes 1.5 s.  It is heeded on plain functions, not on cached ones.
    name_of._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def table(first: ElementFormat | int, *arguments: Hashable) -> torch.Tensor:
        # A graph of torch 2.11 takes no record as a constant, but it takes its name.
        key: ElementFormat | str | int = first
        if torch.compiler.is_compiling() and not isinstance(first, int):
            key = first.name
        found: torch.Tensor = getattr(_HELD, name_of(key, *arguments))
        return found

    return table
