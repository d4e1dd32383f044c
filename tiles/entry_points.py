"""Objects that other distributions offer to the workbench through entry points."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["offered"]

#: What importing a module of another distribution, and reading a name in it, commonly raises.
_LOAD_ERRORS = (
    ImportError,
    AttributeError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    LookupError,
)


def offered(group: str, name: str | None = None) -> list[tuple[str, Any]]:
    """What installed distributions offer in an entry point group: (where it is, the object).

    The standard library's reader takes longer to load than a prediction may take, so it is loaded
    only where some distribution names the group.

    Args:
        name: of one entry; ``None`` for all of them.
    Raises:
        ValueError: what an entry names cannot be loaded; the message names its distribution.
    """
    if not _named(group):
        return []
    from importlib.metadata import entry_points

    points = entry_points(group=group) if name is None else entry_points(group=group, name=name)
    return [(point.value, _load(point)) for point in points]


def _load(point: "EntryPoint") -> Any:
    try:
        return point.load()
    except _LOAD_ERRORS as error:
        owner = "" if point.dist is None else f" of distribution {point.dist.name}"
        raise ValueError(
            f"entry point {point.group}: {point.name} = {point.value}{owner} cannot be loaded "
            f"({type(error).__name__}: {error}): repair or uninstall that distribution"
        ) from error


def _named(group: str) -> bool:
    """Whether a distribution on the path names the group."""
    wanted = f"[{group}]"
    for entry in sys.path:
        for pattern in ("*.dist-info/entry_points.txt", "*.egg-info/entry_points.txt"):
            for file in Path(entry or ".").glob(pattern):
                try:
                    if wanted in file.read_text(encoding="utf-8"):
                        return True
                except (OSError, UnicodeDecodeError):
                    continue  # no distribution that could be loaded from
    return False
