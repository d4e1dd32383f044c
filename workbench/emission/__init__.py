"""From a finished sweep to an installable kernel package with its evidence.

Names load their modules when they are first asked for: listing the targets imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.emission.package import EmittedPackage, emit
    from workbench.emission.wheel import build_wheel

__all__ = ["EmittedPackage", "build_wheel", "emit"]

_HOMES = {"EmittedPackage": "package", "emit": "package", "build_wheel": "wheel"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found
