"""From a finished sweep to an installable kernel package with its evidence."""

from workbench.emission.package import EmittedPackage, emit
from workbench.emission.wheel import build_wheel

__all__ = ["EmittedPackage", "build_wheel", "emit"]
