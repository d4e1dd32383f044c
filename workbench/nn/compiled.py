"""What ``torch.compile`` leaves alone: a graph ends before it, and the next begins behind it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["outside_graphs"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def outside_graphs(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that computes the same numbers in a compiled model as in one that is not.

    Random keys, codes that are kept and launches of kernels are matters of the host: traced, they
    would be constants of one step, or another compiler's numbers.  Not ``torch.compiler.disable``
    alone, which loads the compiler at once and costs microseconds in every call outside of it.
    """
    apart: Callable[_P, _R] = torch._disable_dynamo(function)  # type: ignore[attr-defined]

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            return apart(*args, **kwargs)  # and nothing behind it, which would be compiled
        return function(*args, **kwargs)

    # The compiler keeps what it made by code object: a shared one would reach its limit of
    # compilations by the number of functions.
    own: Any = called
    own.__code__ = own.__code__.replace(
        co_name=function.__name__, co_qualname=function.__qualname__
    )
    return called
