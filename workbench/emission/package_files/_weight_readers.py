"""Layers whose weight some other module reads instead of calling them: those cannot be replaced.

T5 asks ``self.wo.weight.dtype``, Mamba multiplies by ``self.dt_proj.weight``.  Nobody tells so
before the model runs, but the byte code of a class's methods does.
"""

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

_PARTS = ("weight", "bias")
#: They set weights before a model is patched, or hand layers on to others.
_BEFORE = (
    "__init__",
    "init_weights",
    "_init_weights",
    "post_init",
    "reset_parameters",
    "tie_weights",
)


def weight_readers(model: nn.Module) -> dict[nn.Module, str]:
    """Modules of a model whose weight or bias a method of another one reads: to that one's class.

    What a module does with its own weight is its own matter, and of names that are made up at run
    time nothing is known.
    """
    found: dict[nn.Module, str] = {}
    modules = list(model.modules())
    chains = {kind: _chains(kind) for kind in dict.fromkeys(map(type, modules))}
    for module in modules:
        for chain in chains[type(module)]:
            read: object = module
            for name in chain:
                read = getattr(read, "_modules", {}).get(name)
            if isinstance(read, nn.Module):
                found.setdefault(read, type(module).__name__)
    return found


def _chains(kind: type) -> tuple[tuple[str, ...], ...]:
    """Names from a module to those whose weight its methods read: ``self.a.b.weight``: (a, b)."""
    found = [
        chain
        for base in kind.__mro__
        if not base.__module__.startswith("torch.")
        for name, method in vars(base).items()
        if isinstance(method, FunctionType) and name not in _BEFORE
        for chain in _read(_bare(method).__code__)
    ]
    return tuple(dict.fromkeys(found))


def _bare(method: FunctionType) -> FunctionType:
    """The function that decorators were put around."""
    while isinstance(inner := getattr(method, "__wrapped__", None), FunctionType):
        method = inner
    return method


def _read(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Of ``self.a.b.weight`` in a method and the functions inside it: (a, b)."""
    chain: list[str] | None = None
    for step in dis.get_instructions(code):
        if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")):
            # Some load two variables at once; attributes are the last one's.
            name = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
            chain = [] if name == "self" else None
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and chain is not None:
            if step.argval in _PARTS and chain:
                yield tuple(chain)
            chain.append(step.argval)
        elif step.opname not in ("CACHE", "EXTENDED_ARG"):
            chain = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _read(constant)
