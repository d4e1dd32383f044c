"""Tables that are computed once a device, and that compiled graphs share."""

from collections.abc import Callable, Hashable
from functools import cache
from types import SimpleNamespace
from typing import ParamSpec

import torch

__all__ = ["held_tensor"]

Arguments = ParamSpec("Arguments")

#: Every table, each under a name of its own: where a compiled graph finds its input.
_HELD = SimpleNamespace()


def held_tensor(make: Callable[Arguments, torch.Tensor]) -> Callable[Arguments, torch.Tensor]:
    """Decorate a function of hashable arguments, so that it is run once for each of them.

    Under ``torch.compile`` it is run while the graph is traced, and the graph takes the tensor as
    an input: as a constant, dynamo would mix up the tables of one function.
    """

    @cache
    def hold(*arguments: Hashable) -> str:
        name = f"{make.__name__}_{len(vars(_HELD))}"
        setattr(_HELD, name, make(*arguments))  # type: ignore[call-arg, arg-type]
        return name

    def name_of(*arguments: Hashable) -> str:
        return hold(*arguments)

    # What ``torch.compiler.assume_constant_result`` does; calling that would load the compiler,
    # which takes 1.5 s.  It is heeded on plain functions, not on cached ones.
    name_of._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def table(*arguments: Arguments.args, **_: Arguments.kwargs) -> torch.Tensor:
        found: torch.Tensor = getattr(_HELD, name_of(*arguments))
        return found

    return table
