"""Triton's interpreter without a search of its language at every call of a device function.

The interpreter puts its own functions in the place of the language's when a launch begins, and
takes them away when it ends.  At every call of a device function within the launch it looks through
the whole language again and finds nothing left to replace, which takes a third of a product's time.
Imports triton alone: verification loads this file where the workbench must not be imported.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

__all__ = ["quick_interpreter"]


def _languages(function: Any) -> list[Any]:
    """The modules whose functions are replaced for this function: those that it sees."""
    seen = [value for value in function.__globals__.values() if inspect.ismodule(value)]
    return [module for module in (tl, tl.core) if any(value is module for value in seen)]


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Within the context, what is replaced for a launch is not looked for again in it."""
    replace = interpreter._patch_lang
    known: dict[Any, list[Any]] = {}

    def replace_once(function: Any) -> Any:
        if function not in known:
            known[function] = _languages(function)
        languages = known[function]
        if not languages or any(tl.core.is_builtin(module.load) for module in languages):
            return replace(function)
        return interpreter._LangPatchScope()  # nothing replaced, nothing to restore

    interpreter._patch_lang = replace_once
    try:
        yield
    finally:
        interpreter._patch_lang = replace
