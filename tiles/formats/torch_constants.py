"""Tables that are computed once a device, and that compiled graphs share."""

from collections.abc import Callable, Hashable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)

__all__ = ["held_tensor"]

#: Kind, name and fields of a record.
Facts = tuple[Any, ...]
_INT_FIELDS = ("signed", "fraction_bits", "offset")

#: Every table, each under a name of its own: where a compiled graph finds its input.
_HELD = SimpleNamespace()


def held_tensor(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Decorate a function of hashable arguments, so that it is run once for each of them.

    Under ``torch.compile`` it is run while the graph is traced, and the graph takes the tensor as
    an input: as a constant, dynamo would mix up the tables of one function.  What is made stays,
    since graphs look it up by name: not for what depends on the size of a matrix outside a graph.
    """

    @cache
    def hold(first: Facts | int, *arguments: Hashable) -> str:
        name = f"{make.__name__}_{len(vars(_HELD))}"
        setattr(_HELD, name, make(first if isinstance(first, int) else _record(first), *arguments))
        return name

    def name_of(first: Facts | int, *arguments: Hashable) -> str:
        return hold(first, *arguments)

    # What ``torch.compiler.assume_constant_result`` does; calling that would load the compiler,
    # which takes 1.5 s.  It is heeded on plain functions, not on cached ones.
    name_of._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def table(first: ElementFormat | int, *arguments: Hashable) -> torch.Tensor:
        # A graph of torch 2.11 takes no record as a constant, but it takes its facts.
        key = first if isinstance(first, int) else _facts(first)
        found: torch.Tensor = getattr(_HELD, name_of(key, *arguments))
        return found

    return table


def _facts(fmt: ElementFormat) -> Facts:
    """Kind and fields of a record; its name alone would not do, which two formats may share."""
    match fmt:
        case FloatElement():
            layout = (fmt.bits, fmt.precision, fmt.bias, fmt.specials.value, fmt.signed)
            return ("float", fmt.name, *layout)
        case IntElement():
            return ("int", fmt.name, fmt.bits, fmt.signed, fmt.fraction_bits, fmt.offset)
        case PositElement():
            return ("posit", fmt.name, fmt.bits, fmt.es)
        case CodebookElement():
            return ("codebook", fmt.name, fmt.bits, *fmt.values)


def _record(facts: Facts) -> ElementFormat:
    """The record whose :func:`_facts` these are."""
    kind, name, bits, *rest = facts
    named: dict[str, Any] = {"name": name, "bits": bits}
    match kind:
        case "float":
            precision, bias, specials, signed = rest
            named |= {"precision": precision, "bias": bias, "signed": signed}
            return FloatElement(**named, specials=Specials(specials))
        case "int":
            return IntElement(**named, **dict(zip(_INT_FIELDS, rest, strict=True)))
        case "posit":
            return PositElement(**named, es=rest[0])
        case _:
            return CodebookElement(**named, values=tuple(rest))
