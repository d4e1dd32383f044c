"""The workbench's version: of the installed distribution, or of the checkout that is imported."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION", "workbench_version"]

#: The one place where it is written; ``pyproject.toml`` reads it from here.  Every package may
#: import this one, so that measurements name it too.
VERSION = "0.1.0"


def workbench_version() -> str:
    """The installed distribution's version, :data:`VERSION` where there is none."""
    try:
        return version("tile-workbench")
    except PackageNotFoundError:
        return VERSION
