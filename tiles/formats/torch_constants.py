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
    """Decorate a function of an element format and more, so that it is run once for each of them.

    Under ``torch.compile`` it is run while the graph is traced, and the graph takes the tensor as
    an input: as a constant, dynamo would mix up the tables of one function.  A format is then known
    by its name, so it must be one that :func:`tiles.formats.element` finds.
    """

    @cache
    def hold(fmt: ElementFormat | str, *arguments: Hashable) -> str:
        name = f"{make.__name__}_{len(vars(_HELD))}"
        fmt = element(fmt) if isinstance(fmt, str) else fmt
        setattr(_HELD, name, make(fmt, *arguments))
        return name

    def name_of(fmt: ElementFormat | str, *arguments: Hashable) -> str:
        return hold(fmt, *arguments)

    # What ``torch.compiler.assume_constant_result`` does; calling that would load the compiler,
    # which takes 1.5 s.  It is heeded on plain functions, not on cached ones.
    name_of._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def table(fmt: ElementFormat, *arguments: Hashable) -> torch.Tensor:
        # A graph of torch 2.11 takes no record as a constant, but it takes its name.
        key = fmt.name if torch.compiler.is_compiling() else fmt
        found: torch.Tensor = getattr(_HELD, name_of(key, *arguments))
        return found

    return table
