"""An emitted package in the test's own process."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def imported(folder: Path, name: str) -> Iterator[ModuleType]:
    """The package in ``folder``, imported; its name must be no other test's.

    Torch keeps the operators of a name for good, so a name is imported once in a process.
    """
    sys.path.insert(0, str(folder / "src"))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder / "src"))
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
